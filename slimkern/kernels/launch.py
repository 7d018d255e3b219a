"""What every launch needs: where it runs, how exactly it multiplies, and its numbers on the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import copy_context
from functools import cache
from typing import Any

import numpy as np
import torch
import triton
from numpy.typing import NDArray
from torch import Tensor
from triton import knobs

from slimkern.kernels.configurations import Configuration, ReductionConfiguration
from slimkern.kernels.geometry import Pair

INTERPRETED = bool(knobs.runtime.interpret)
"""Whether kernels run in Triton's interpreter, on tensors of the CPU; read when Triton was imported."""

INTERPRETED_PROGRAMS = 3
"""Programs of a launch in the interpreter: few, so that each computes several tiles."""

REGISTERS, PROGRAMS = 64 * 1024, 8
"""Of a multiprocessor: registers, and how many programs are worth having on one."""

REGISTERS_AT_ONCE = 8
"""Registers of a thread are handed out by so many."""

RESERVED = 1024
"""Bytes of shared memory that CUDA keeps for itself in each program."""


class Unsuitable(ValueError):
    """A configuration doesn't suit a launch; another may."""


def precision(dtype: torch.dtype, linear: bool = False) -> str:
    """How products of float32 are formed: exactly (ieee), or as tf32 where PyTorch's switch allows it.

    There is a switch for convolutions and one for linear layers. Shorter dtypes are multiplied exactly either way.
    """
    backends: Any = torch.backends
    switch = backends.cuda.matmul if linear else backends.cudnn.conv
    return "ieee" if dtype == torch.float32 and switch.fp32_precision != "tf32" else "tf32"


def on_device(numbers: Sequence[Sequence[int]] | NDArray[np.int32], device: torch.device) -> Tensor:
    """Numbers as int32 on a device. Plans keep them: nothing is copied when a launch is repeated.

    Raises:
        RuntimeError: see `refuse_in_capture`.
    """
    refuse_in_capture(device)
    return torch.from_numpy(np.ascontiguousarray(numbers, dtype=np.int32)).to(device)


def refuse_in_capture(device: torch.device) -> None:
    """Refuse to plan a launch while a CUDA graph is being captured.

    Raises:
        RuntimeError: one is; it would copy the plan's numbers at each replay.
    """
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "a CUDA graph is being captured, and this launch has no plan yet: run the same call once before the capture"
        )


def programs(
    device: torch.device,
    configuration: Configuration | ReductionConfiguration,
    kernel: Any,
    arguments: Sequence[Any],
    constants: Mapping[str, Any],
) -> int:
    """Programs of a kernel that a device holds at once, by what its code for these arguments really takes.

    The kernel is compiled and loaded for that, as its first launch would have done.

    Args:
        device: that will run it.
        configuration: its warps, and the budgets that count where no driver tells what the code takes.
        kernel: of Triton.
        arguments: as a launch has them, but for the numbers that tensors hold.
        constants: likewise.

    Raises:
        OutOfResources: the code takes more than the device has.
        RuntimeError: see `refuse_in_capture`.
    """
    refuse_in_capture(device)
    if device.type != "cuda":
        return INTERPRETED_PROGRAMS
    code = kernel.warmup(*arguments, grid=(1,), **constants)
    if hasattr(code, "result"):  # compiled by another thread
        code = code.result()
    if code is None:
        return resident(device, configuration.warps, configuration.registers, configuration.shared)
    _ = code.run  # loads it; what couldn't be loaded once raises when it is launched, and has no registers
    registers = getattr(code, "n_regs", 0) or configuration.registers
    return resident(device, configuration.warps, registers, code.metadata.shared)


@cache
def resident(device: torch.device, warps: int, registers: int, shared: int) -> int:
    """Programs that a GPU holds at once, each with so many warps, registers a thread, and bytes of shared memory."""
    properties = torch.cuda.get_device_properties(device)
    by_memory = properties.shared_memory_per_multiprocessor // (shared + RESERVED)
    handed_out = -(-registers // REGISTERS_AT_ONCE) * REGISTERS_AT_ONCE * warps * 32
    at_once = min(by_memory, REGISTERS // handed_out, PROGRAMS)
    return max(at_once, 1) * properties.multi_processor_count


def check_boxes(device: torch.device) -> None:
    """Refuse devices without a tensor memory accelerator.

    Raises:
        Unsuitable: it is older than compute capability 9.0.
    """
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (9, 0):
        raise Unsuitable(f"boxes want compute capability 9.0, {torch.cuda.get_device_name(device)} is older")


def with_scratch(device: torch.device, launch: Callable[[], object]) -> None:
    """Launch a kernel that makes descriptors while it runs, and so needs memory, which PyTorch's allocator gives."""

    def allocate(size: int, alignment: int, stream: int | None) -> Tensor:
        return torch.empty(size, dtype=torch.int8, device=device)

    def launch_in_context() -> None:
        triton.set_allocator(allocate)
        launch()

    copy_context().run(launch_in_context)  # so that the caller's own allocator stays set


def empty_slab(like: Tensor, batch: int, channels: int, sides: Pair) -> Tensor:
    """A packed channels-last slab [batch, channels, *sides] of another one's dtype, on its device."""
    size = (batch, channels, *sides)
    return torch.empty(size, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)
