"""The way around CUDA's recorder, with one that notes what is asked of it; what a GPU does is tested in tests/gpu."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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

    def pool(self) -> str:
        return "the pool"


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The pools that graphs were recorded with."""
    seen: list[Any] = []

    @contextmanager
    def graph(recorded: Graph, pool: Any, stream: Any, capture_error_mode: str) -> Iterator[None]:
        seen.append(pool)
        yield

    Graph.replays = 0
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "Stream", object)
    return seen


def test_a_replay_reads_its_own_copies_of_the_inputs(pools: list[Any]) -> None:
    seen: list[Tensor] = []
    given = torch.ones(2)
    recorded = CudaGraphs().record(lambda x: (seen.append(x), "result")[1], (given,))
    assert recorded.result == "result" and recorded.reason is None and recorded.replay is not None
    assert Graph.replays == 1  # recording computes nothing
    assert recorded.replay(torch.full((2,), 5.0)) == "result" and Graph.replays == 2
    assert seen[0].tolist() == [5, 5] and given.tolist() == [1, 1] and len(seen) == 1


def test_graphs_share_a_pool(pools: list[Any]) -> None:
    graphs = CudaGraphs()
    for _ in range(2):
        graphs.record(lambda x: x, (torch.ones(1),))
    assert pools == [None, "the pool"]


def test_a_step_that_cannot_be_recorded_is_taken_eagerly(pools: list[Any]) -> None:
    calls: list[int] = []

    def step(x: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("operation not permitted when stream is capturing\nmore lines")
        return x + 1

    recorded = CudaGraphs().record(step, (torch.ones(1),))
    assert recorded.replay is None and recorded.reason == "operation not permitted when stream is capturing"
    assert recorded.result.tolist() == [2] and Graph.replays == 0


def test_an_error_of_the_step_itself_is_the_callers(pools: list[Any]) -> None:
    def step(x: Tensor) -> Tensor:
        raise RuntimeError("its own")

    with pytest.raises(RuntimeError, match="its own"):
        CudaGraphs().record(step, (torch.ones(1),))
