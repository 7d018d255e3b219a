"""Captures of CUDA graphs that may fail, and what must outlive them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

_NEVER_ENDED: list[torch.cuda.CUDAGraph] = []
"""Graphs whose capture failed: some of PyTorch's allocators go on asking them which streams are theirs."""

_READ_BY_GRAPHS: set[object] = set()


def keep_for_graphs(plan: object, device: torch.device) -> None:
    """Keep a plan for good if a CUDA graph is being captured on a device: each replay reads the plan's tensors.

    Caches may drop it then. Which graphs still live isn't known, since anybody may capture one; a plan has some KB.
    """
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        _READ_BY_GRAPHS.add(plan)


@contextmanager
def capturing(graph: torch.cuda.CUDAGraph, pool: Any = None, stream: torch.cuda.Stream | None = None) -> Iterator[None]:
    """Capture a CUDA graph as `torch.cuda.graph` does, and leave the present GPU as it was should that fail.

    PyTorch ends a capture that was broken by raising, before it has left its stream, closed the pool of memory and
    taken the generator of random numbers back. All three are mended here.

    Args:
        graph: that the work is captured into.
        pool: of `torch.cuda.graph_pool_handle`; a new one if None. Don't use it again after a failure.
        stream: to capture on; one of PyTorch's if None.

    Raises:
        RuntimeError: the capture failed; what broke it, if that raised.
    """
    pool = torch.cuda.graph_pool_handle() if pool is None else pool
    cause: BaseException | None = None
    try:
        with (
            torch.cuda.stream(torch.cuda.current_stream()),
            torch.cuda.graph(graph, pool, stream, capture_error_mode="thread_local"),
        ):
            try:
                yield
            except BaseException as error:
                cause = error
                raise
    except BaseException as error:
        if isinstance(error, RuntimeError):
            _mend(graph, pool)
        if cause is None or cause is error:
            raise
        raise cause from None


def _mend(graph: torch.cuda.CUDAGraph, pool: Any) -> None:
    try:
        torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
    except RuntimeError:
        return  # the capture was ended in order
    torch._C._cuda_releasePool(torch.cuda.current_device(), pool)
    graph.reset()
    _NEVER_ENDED.append(graph)
    # The generator of random numbers believes that it is being captured until a capture ends as it should.
    with (
        suppress(RuntimeError),
        torch.cuda.stream(torch.cuda.current_stream()),
        torch.cuda.graph(torch.cuda.CUDAGraph()),
    ):
        torch.zeros(1, device="cuda")
