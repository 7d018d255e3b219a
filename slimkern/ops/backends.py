"""The one place that chooses which implementation serves a call."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from slimkern.ops import native, triton
from slimkern.ops.convolution import Convolution

ENVIRONMENT_VARIABLE = "SLIMKERN_BACKEND"
BACKENDS = ("torch", "triton", "native")
"""All backends that a user may force: plain torch slab by slab, Triton kernels, compiled C++ and CUDA."""

OPERATORS: dict[str, tuple[str, ...]] = {
    "branch_conv2d": ("triton", "torch"),
    "branch_linear": ("triton", "torch"),
    "pack_weights": ("native", "torch"),
    "ragged_head": ("native", "torch"),
    "scroll_conv2d": ("triton", "torch"),
    "scroll_conv2d_batch_norm": ("native", "torch"),
    "scroll_linear": ("triton", "torch"),
    "switchable_batch_norm": ("native", "torch"),
}
"""The backends that each operator has, best first; of scroll_conv2d_batch_norm, what serves the batch norm."""

PROVEN = {("native", "cpu")}
"""Kernels that have passed their tests on such hardware; others serve only where they are asked for."""


def choose(operator: str, device: torch.device | str) -> str:
    """Name the backend that serves `operator` for tensors on `device`.

    `SLIMKERN_BACKEND` may force one, or name several after commas: the first of them that the operator has. Tensors
    that a backend doesn't take, such as those of float64, go to plain torch all the same.

    Raises:
        ValueError: `SLIMKERN_BACKEND` holds an unknown name, or none that this operator has and that works here.
    """
    kind = _kind(device)
    available = OPERATORS[operator]
    forced = os.environ.get(ENVIRONMENT_VARIABLE)
    if not forced:
        return next(backend for backend in available if _serves_unasked(backend, kind))
    names = forced.split(",")
    if unknown := [name for name in names if name not in BACKENDS]:
        raise ValueError(f"{ENVIRONMENT_VARIABLE}={unknown[0]} is unknown: it must be one of {', '.join(BACKENDS)}")
    present = [name for name in names if name in available]
    if not present:
        raise ValueError(
            f"{ENVIRONMENT_VARIABLE}={forced}: {operator} on {kind} has no such backend, only {', '.join(available)}"
        )
    if reason := _missing(present[0], kind):
        raise ValueError(f"{ENVIRONMENT_VARIABLE}={forced}: {operator} on {kind} can't use {present[0]}: {reason}")
    return present[0]


def describe(operator: str, device: torch.device | str) -> str:
    """What serves `operator` on `device`, or why nothing does, for people to read."""
    try:
        return choose(operator, device)
    except ValueError as error:
        return f"none ({error})"


def unless_refused(
    operator: str, slabs: Sequence[Tensor], convolution: Convolution, out_channels: Sequence[int]
) -> str:
    """Triton, which was asked for; torch, with a warning, for a call that the kernels don't take."""
    reason = triton.why_not(slabs, convolution, out_channels)
    if reason is None:
        return "triton"
    if not torch.compiler.is_compiling():
        warnings.warn(f"{operator}: torch serves a call that Triton doesn't take: {reason}", stacklevel=3)
    return "torch"


def why_not(operator: str, backend: str, device: torch.device | str = "cpu") -> str | None:
    """Why `backend` doesn't serve `operator` on `device` unless asked for; None if it could."""
    kind = _kind(device)
    if backend not in OPERATORS[operator]:
        return "not part of this version"
    if reason := _missing(backend, kind):
        return reason
    if not _serves_unasked(backend, kind):
        return f"not yet proven on such hardware; {ENVIRONMENT_VARIABLE}={backend} asks for it"
    return None


def _kind(device: torch.device | str) -> str:
    return (torch.device(device) if isinstance(device, str) else device).type


def _serves_unasked(backend: str, kind: str) -> bool:
    """Whether a backend is proven, and there; the question that is quicker to answer comes first."""
    return backend == "torch" or ((backend, kind) in PROVEN and _missing(backend, kind) is None)


def _missing(backend: str, kind: str) -> str | None:
    if backend == "native":
        return native.why_unavailable(kind)
    return triton.why_unavailable(kind) if backend == "triton" else None
