"""Measurements of kernels as data: where they are kept, what they hold for, and how processes share them."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from math import inf
from pathlib import Path
from typing import Any

import torch
import triton

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None

VERSION = 3
SHIPPED = Path(__file__).with_name("choices.json")

Table = dict[str, dict[str, dict[str, dict[str, Any]]]]
"""What it was measured on, problem, way: the configuration's name (none slab by slab) and the microseconds it took.

The first is a `fingerprint`; in the table that is shipped it is the device's name alone, as that one is a hint.
"""


def cache_file() -> Path:
    """Where this user's measurements are kept: under XDG_CACHE_HOME, or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slimkern" / f"choices-{VERSION}.json"


def name_of(device: torch.device) -> str:
    """What a device is called."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def fingerprint(device: torch.device) -> str:
    """All that a measurement depends on: the device, its driver, the libraries, and the kernels themselves."""
    parts = [name_of(device), f"torch {torch.__version__}", f"Triton {triton.__version__}", f"kernels {_sources()}"]
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        parts += [
            f"capability {major}.{minor}",
            f"driver {_driver()}",
            f"cuDNN {torch.backends.cudnn.version()}",
        ]
    return ", ".join(parts)


@cache
def _driver() -> str:
    """The version of NVIDIA's driver, or that of CUDA which it is for where the system tells no more."""
    module = Path("/sys/module/nvidia/version")
    if module.is_file():
        return module.read_text(encoding="utf-8").strip()
    number = ctypes.c_int()
    with suppress(OSError):
        ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1").cuDriverGetVersion(ctypes.byref(number))
    return str(number.value or "unknown")


@cache
def _sources() -> str:
    """A hash of the files that kernels are made from."""
    content = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        content.update(path.read_bytes())
    return content.hexdigest()[:12]


def read_table(path: Path) -> Table:
    """The measurements in a file; none, with a warning, if it is broken or of another version."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        warnings.warn(f"{path} can't be read ({error}): kernels are chosen without it", stacklevel=2)
        return {}
    if not _is_table(content):
        warnings.warn(f"{path} isn't a table of version {VERSION}: kernels are chosen without it", stacklevel=2)
        return {}
    return content["devices"]


def _is_table(content: Any) -> bool:
    try:
        return content.get("version") == VERSION and all(
            _is_entry(entry["configuration"], entry["microseconds"])
            for problems in content["devices"].values()
            for ways in problems.values()
            for entry in ways.values()
        )
    except (AttributeError, KeyError, TypeError):
        return False


def _is_entry(configuration: Any, microseconds: Any) -> bool:
    """Whether a measurement can be compared with others: JSON also brings words, NaN, infinities and negative times."""
    is_number = isinstance(microseconds, int | float) and not isinstance(microseconds, bool)
    return isinstance(configuration, str | None) and is_number and 0 < microseconds < inf


def add_entry(path: Path, place: str, problem: str, way: str, entry: dict[str, Any]) -> None:
    """Add a measurement to a file, and leave there what other processes have added meanwhile.

    Raises:
        OSError: the folder can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone_with(path):
        table = read_table(path)
        table.setdefault(place, {}).setdefault(problem, {})[way] = entry
        write_table(path, table)


@contextmanager
def _alone_with(path: Path) -> Iterator[None]:
    """Keep other processes from writing to a file's folder, where the system has locks."""
    if fcntl is None:
        yield
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network drives have no locks
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)  # which unlocks it


def write_table(path: Path, table: Table) -> None:
    """Replace a file of measurements at once, so that readers see the old or the new one.

    Raises:
        OSError: the folder can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"version": VERSION, "devices": table}, file, indent=1, sort_keys=True)
        os.replace(beside, path)
    except BaseException:
        os.unlink(beside)
        raise
