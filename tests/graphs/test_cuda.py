"""The way around CUDA's recorder, with one that notes what is asked of it; what a GPU does is tested in tests/gpu."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import pytest
import torch
from torch import Tensor

from slimkern.graphs.cuda import CudaGraphs


class Graph:
    """Replays nothing, but counts."""

    replays = 0

    def replay(self) -> None:
        Graph.replays += 1

    def reset(self) -> None: ...


class Gpu:
    """Which stream is the present one, and what is asked of the recorder and the allocator."""

    def __init__(self) -> None:
        self.present: Any = "the caller's"
        self.pools: list[Any] = []
        self.open: list[Any] = []
        self.released: list[Any] = []
        self.broken = False

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        before, self.present = self.present, stream
        try:
            yield
        finally:
            self.present = before

    @contextmanager
    def graph(
        self, recorded: Graph, pool: Any = None, stream: Any = "one of its own", **options: Any
    ) -> Iterator[None]:
        """As PyTorch's, which ends neither stream nor pool where the end of the capture raises."""
        before, self.present = self.present, stream
        self.open.append(pool)
        self.pools.append(pool)
        try:
            yield
        finally:
            if self.broken:
                self.broken = False
                raise RuntimeError("operation failed due to a previous error during capture")
            self.open.remove(pool)
            self.present = before

    def end(self, device: int, pool: Any) -> None:
        if pool not in self.open:
            raise RuntimeError("not currently recording to this pool")
        self.open.remove(pool)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    """One that records nothing."""
    own, zeros, handles = Gpu(), torch.zeros, count(1)
    Graph.replays = 0
    monkeypatch.setattr(torch.cuda, "graph", own.graph)
    monkeypatch.setattr(torch.cuda, "stream", own.stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: own.present)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: f"pool {next(handles)}")
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "Stream", object)
    monkeypatch.setattr(torch, "zeros", lambda *size, device: zeros(*size))
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", own.end, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_releasePool", lambda device, pool: own.released.append(pool), raising=False)
    return own


def test_a_replay_reads_its_own_copies_of_the_inputs(gpu: Gpu) -> None:
    seen: list[Tensor] = []
    given = torch.ones(2)
    recorded = CudaGraphs().record(lambda x: (seen.append(x), "result")[1], (given,))
    assert recorded.result == "result" and recorded.reason is None and recorded.replay is not None
    assert Graph.replays == 1  # recording computes nothing
    assert recorded.replay(torch.full((2,), 5.0)) == "result" and Graph.replays == 2
    assert seen[0].tolist() == [5, 5] and given.tolist() == [1, 1] and len(seen) == 1


def test_graphs_share_a_pool(gpu: Gpu) -> None:
    graphs = CudaGraphs()
    for _ in range(2):
        graphs.record(lambda x: x, (torch.ones(1),))
    assert gpu.pools == ["pool 1", "pool 1"]


def test_a_step_that_cannot_be_recorded_is_taken_eagerly(gpu: Gpu) -> None:
    calls: list[int] = []

    def step(x: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("operation not permitted when stream is capturing\nmore lines")
        return x + 1

    recorded = CudaGraphs().record(step, (torch.ones(1),))
    assert recorded.replay is None and recorded.reason == "operation not permitted when stream is capturing"
    assert recorded.result.tolist() == [2] and Graph.replays == 0


def test_an_error_of_the_step_itself_is_the_callers(gpu: Gpu) -> None:
    def step(x: Tensor) -> Tensor:
        raise RuntimeError("its own")

    with pytest.raises(RuntimeError, match="its own"):
        CudaGraphs().record(step, (torch.ones(1),))


def test_a_broken_capture_leaves_the_gpu_as_it_was(gpu: Gpu) -> None:
    seen: list[Any] = []

    def step(x: Tensor) -> Tensor:
        seen.append(gpu.present)
        if len(seen) == 1:
            gpu.broken = True
            raise RuntimeError("operation not permitted when stream is capturing")
        return x + 1

    graphs = CudaGraphs()
    recorded = graphs.record(step, (torch.ones(1),))
    assert recorded.reason == "operation not permitted when stream is capturing"  # not what became of it
    assert recorded.result.tolist() == [2] and seen[1] == gpu.present == "the caller's" != seen[0]
    assert gpu.open == [] and gpu.released == ["pool 1"]
    assert graphs.record(step, (torch.ones(1),)).replay is not None
    assert gpu.present == "the caller's" and gpu.pools[0] != gpu.pools[-1] and gpu.released == ["pool 1"]


def test_a_capture_that_only_its_end_breaks(gpu: Gpu) -> None:
    def step(x: Tensor) -> Tensor:
        gpu.broken = gpu.present != "the caller's"
        return x

    recorded = CudaGraphs().record(step, (torch.ones(1),))
    assert recorded.reason == "operation failed due to a previous error during capture"
    assert gpu.present == "the caller's" and gpu.open == []


def test_an_interrupted_capture_leaves_its_stream(gpu: Gpu) -> None:
    def step(x: Tensor) -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        CudaGraphs().record(step, (torch.ones(1),))
    assert gpu.present == "the caller's" and gpu.open == []
