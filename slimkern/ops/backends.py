"""The one place that chooses which implementation serves a call."""

from __future__ import annotations

import os

import torch

ENVIRONMENT_VARIABLE = "SLIMKERN_BACKEND"
BACKENDS = ("torch", "triton", "native")
"""All backends that a user may force: plain torch slab by slab, Triton kernels, compiled C++ and CUDA."""

OPERATORS: dict[str, tuple[str, ...]] = {
    "scroll_conv2d": ("torch",),
    "scroll_conv2d_batch_norm": ("torch",),
    "scroll_linear": ("torch",),
    "switchable_batch_norm": ("torch",),
}
"""The backends that each operator has, best first."""


def choose(operator: str, device: torch.device | str) -> str:
    """Name the backend that serves `operator` for tensors on `device`.

    Raises:
        ValueError: `SLIMKERN_BACKEND` holds an unknown name, or one that this operator doesn't have.
    """
    available = OPERATORS[operator]
    forced = os.environ.get(ENVIRONMENT_VARIABLE)
    if not forced:
        return available[0]
    if forced not in BACKENDS:
        raise ValueError(f"{ENVIRONMENT_VARIABLE}={forced} is unknown: it must be one of {', '.join(BACKENDS)}")
    if forced not in available:
        raise ValueError(
            f"{ENVIRONMENT_VARIABLE}={forced}: {operator} on {device} has no such backend, only {', '.join(available)}"
        )
    return forced


def why_not(operator: str, backend: str) -> str | None:
    """Why `backend` doesn't serve `operator` here; None if it could."""
    return None if backend in OPERATORS[operator] else "not part of this version"
