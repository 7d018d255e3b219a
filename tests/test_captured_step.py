from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import slimkern as sk
from slimkern.captured_step import CapturedStep
from slimkern.continual.precision import tensor_float_32
from slimkern.graphs.cuda import CudaGraphs
from slimkern.graphs.recorded import Recorded
from tests.logged_graphs import LoggedGraphs


@pytest.fixture
def log() -> list[str]:
    LoggedGraphs.log.clear()
    return LoggedGraphs.log


def total(images: Tensor, factor: float = 1.0) -> Tensor:
    return factor * images.sum()


def captured(step: Callable[..., Any] = total, *modules: nn.Module, **options: Any) -> CapturedStep:
    return CapturedStep(step, modules, graphs=LoggedGraphs, **options)


def scrolling() -> nn.Module:
    return sk.scrollify(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)), whole_in=["0"])


def test_a_call_is_warmed_up_recorded_and_replayed(log: list[str]) -> None:
    step = captured()
    results = [float(step(torch.full((2,), float(value)))) for value in range(5)]
    assert results == [0, 2, 4, 6, 8]
    assert log == ["eager", "eager", "recorded", "replayed", "replayed"]
    assert (step.recorded, step.reason) == (1, None)


@pytest.mark.parametrize(
    "others",
    [
        (torch.ones(3), {}),
        (torch.ones(2, dtype=torch.float64), {}),
        (torch.ones(4)[::2], {}),
        (torch.ones(2), {"factor": 3.0}),
    ],
    ids=["shape", "dtype", "layout", "setting"],
)
def test_another_kind_of_call_gets_a_graph_of_its_own(log: list[str], others: tuple[Tensor, dict]) -> None:
    step, (tensor, settings) = captured(warmup=1), others
    for _ in range(3):
        assert float(step(torch.ones(2))) == 2
        assert float(step(tensor, **settings)) == total(tensor, **settings)
    assert step.recorded == 2 and log.count("eager") == log.count("recorded") == log.count("replayed") == 2


@pytest.mark.parametrize("others", [1, 1.0], ids=["int", "float"])
def test_settings_that_are_equal_but_of_another_type_are_told_apart(others: float) -> None:
    step = captured(lambda images, factor: images * 2 if factor is True else images * factor, warmup=0)
    assert [float(step(torch.ones(1), factor=factor)) for factor in (True, others)] == [2, 1]


def test_a_graph_holds_for_the_modes_it_was_recorded_in() -> None:
    step = captured(lambda images: images * (2 if torch.is_grad_enabled() else 3), warmup=0)
    assert float(step(torch.ones(1))) == 2
    with torch.no_grad():
        assert float(step(torch.ones(1))) == 3
    assert step.recorded == 2


def test_tensors_by_keyword_are_refused() -> None:
    with pytest.raises(ValueError, match="takes tensors by position, but was given labels by keyword"):
        sk.capture(lambda images, labels: images)(torch.ones(1), labels=torch.ones(1))


def test_a_replay_sees_the_weights_as_they_are(log: list[str]) -> None:
    net = nn.Linear(1, 1, bias=False)
    step = captured(lambda x: net(x).sum().detach(), net, warmup=0)
    for value in (1.0, 2.0, 3.0):
        nn.init.constant_(net.weight, value)
        assert float(step(torch.ones(1, 1))) == value
    assert step.recorded == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda net: sk.scroll_to(net, task=1),
        lambda net: net.append(nn.Linear(1, 1)),
        lambda net: net.eval(),
        lambda net: net[0].weight.requires_grad_(False),
        lambda net: setattr(net[0].weight, "data", net[0].weight.data.clone()),
    ],
    ids=["scroll", "new head", "evaluation", "frozen", "elsewhere"],
)
def test_it_is_recorded_again_when_the_network_changes(log: list[str], change: Callable[[Any], Any]) -> None:
    net = scrolling()
    step = captured(lambda x: x.sum(), net, warmup=1)
    images = torch.randn(1, 3, 2, 2)
    for _ in range(3):
        step(images)
    before = list(log)
    change(net)
    for _ in range(3):
        step(images)
    assert log == before * 2 and step.recorded == 2


def test_kinds_beyond_the_most_run_eagerly(log: list[str]) -> None:
    step = captured(warmup=0, most=2)
    for size in (1, 2, 3, 4, 3, 2):
        assert float(step(torch.ones(size))) == size
    assert step.recorded == 2 and log.count("eager") == 3
    assert step.reason == "2 kinds of calls are recorded at most, and 2 others were made"
    assert float(step(torch.ones(1))) == 1 and log[-1] == "replayed"


def test_a_graph_holds_for_the_switches_of_tf32() -> None:
    step = captured(warmup=0)
    for precision in ("fp32", "tf32", "fp32"):
        with tensor_float_32(precision):
            step(torch.ones(1))
    assert step.recorded == 2


def test_a_step_that_cannot_be_recorded_runs_eagerly_and_says_why(
    log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: LoggedGraphs, step: Callable[..., Any], tensors: tuple[Tensor, ...], *_: Any) -> Recorded:
        return Recorded(step(*tensors), reason="operation not permitted when stream is capturing")

    monkeypatch.setattr(LoggedGraphs, "record", refuse)
    step = captured(warmup=1)
    assert [float(step(torch.ones(2))) for _ in range(4)] == [2] * 4
    assert step.reason == "recording failed: operation not permitted when stream is capturing"
    assert (step.recorded, log) == (0, ["eager"])


def test_a_reason_given_beforehand_is_kept(log: list[str]) -> None:
    step = captured(eager_because="it reads its loss back")
    assert [float(step(torch.ones(2))) for _ in range(4)] == [2] * 4
    assert (step.reason, log) == ("it reads its loss back", [])


def test_on_a_cpu_steps_are_lists_of_operators() -> None:
    calls = []
    step = sk.capture(lambda images, factor: (calls.append(1), total(images, factor))[1])
    assert [float(step(torch.full((2,), value), factor=2.0)) for value in range(5)] == [0, 4, 8, 12, 16]
    assert (len(calls), step.recorded, step.reason) == (3, 1, None)


def test_a_cuda_graph_needs_tensors_on_the_gpu() -> None:
    assert CudaGraphs().refuses(()) is not None
    reason = "a CUDA graph needs tensors on the present GPU; these are on cpu"
    assert CudaGraphs().refuses([torch.ones(1)]) == reason


def test_a_compiled_network_is_not_recorded_on_a_cpu() -> None:
    step = sk.capture(total, torch.compile(nn.Linear(1, 1), backend="eager"), warmup=0)
    assert float(step(torch.ones(2))) == 2 and step.reason == "it is compiled, or a part of it"


def test_tensors_that_require_gradients_are_refused(log: list[str]) -> None:
    with pytest.raises(ValueError, match="must not require gradients"):
        captured()(torch.ones(2, requires_grad=True))
