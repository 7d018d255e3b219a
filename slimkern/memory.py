"""Memory: how much was in use, and keeping that of activations, in large pages, between training steps on a CPU."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from contextlib import suppress
from pathlib import Path

import torch

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # the numbers of malloc.h
_NEVER = 2**31 - 1
_CLEARED = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


def keep_freed_memory() -> bool:
    """Ask the C library to keep freed memory in this process instead of returning it to the system.

    Activations are freed at the end of every step and needed again in the next. glibc gives large pieces back in
    between, and each of their pages then costs a page fault when it is touched again. GPUs have no such trouble, as
    PyTorch keeps their memory itself. The process's memory stays at its peak.

    PyTorch is asked to put large tensors on large pages too, whose addresses are found faster: it heeds
    `THP_MEM_ALLOC_ENABLE`, unless it has allocated tensors before. A value that the user has set stays.

    Returns:
        Whether the C library is glibc and agreed.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_M_MMAP_MAX, 0)) and bool(libc.mallopt(_M_TRIM_THRESHOLD, _NEVER))


def forget_peak_memory(device: torch.device) -> None:
    """Let `peak_memory` count from now on: on a GPU, and on a CPU under Linux."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):  # other systems, or a kernel built without it
        _CLEARED.write_text("5")


def peak_memory(device: torch.device) -> int | None:
    """Bytes in use at most since `forget_peak_memory`, or so far: of tensors on a GPU, of the whole process on a CPU.

    None where it isn't known. A CPU's process may hold memory that it has freed, see `keep_freed_memory`.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError, StopIteration):  # Linux; what `resource` knows there is never forgotten
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return 1024 * int(line.split()[1])
    try:
        import resource
    except ImportError:  # Windows
        return None
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kibibytes if sys.platform == "darwin" else 1024 * kibibytes
