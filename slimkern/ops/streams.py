"""Calls that need nothing of one another: one after the other or, in a CUDA graph, as branches of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from typing import TypeVar

import torch

from slimkern.kernels.configurations import STREAMS, TORCH

Result = TypeVar("Result")
Run = Callable[[Sequence[Callable[[], Result]]], Iterable[Result]]
"""Runs calls; gives their results in the same order, on the present stream."""


def in_sequence(calls: Sequence[Callable[[], Result]]) -> Iterable[Result]:
    """Run each call when its result is asked for, so that no results pile up."""
    return (call() for call in calls)


def on_streams(calls: Sequence[Callable[[], Result]]) -> Iterable[Result]:
    """Run calls as branches of the CUDA graph that the present stream is being captured into; elsewhere `in_sequence`.

    The first call stays on the present stream, each other one gets a stream of its own.
    """
    if not (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()):
        return in_sequence(calls)
    present = torch.cuda.current_stream()
    sides = [_side(present.device, place) for place in range(len(calls) - 1)]
    for side in sides:
        side.wait_stream(present)
    try:
        results = []
        for stream, call in zip([present, *sides], calls, strict=True):
            with torch.cuda.stream(stream):
                results.append(call())
    finally:  # a stream that isn't joined would break the capture, and hide what a call raised
        for side in sides:
            present.wait_stream(side)
    # No tensor is recorded on a stream. One that a side allocated is given back to that side, which waits for the
    # present stream before it is used again, and so for whoever read the tensor; one of the present stream's that a
    # side reads is held by the caller until here, where the present stream has waited for that side.
    return results


def slab_by_slab(compute: Callable[..., Result], slabs: int) -> dict[str, Callable[..., Result]]:
    """The ways to compute slabs in plain torch, by the names that the tuner has for them.

    Args:
        compute: runs a call for each slab by its argument `run`, which is `in_sequence` by default.
        slabs: how many there are.
    """
    ways = {TORCH: compute}
    return ways if slabs == 1 else ways | {STREAMS: partial(compute, run=on_streams)}


@cache
def _side(device: torch.device, place: int) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
