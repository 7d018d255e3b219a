"""Training steps as CUDA graphs, beside the same steps launched one by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from slimkern.continual.config import MethodName
from slimkern.continual.methods import METHODS, Method
from slimkern.continual.precision import PrecisionName
from slimkern.continual.recorder import Plan
from slimkern.continual.step import TrainStep
from slimkern.continual.training import train
from slimkern.graphs.cuda import CudaGraphs
from slimkern.graphs.recorded import Recorded
from tests.continual.few_digits import TINY, Listener, few_images

pytestmark = pytest.mark.gpu
LONGER = replace(TINY, epochs=4)
BY_STEPS = [name for name, method in METHODS.items() if method.losses is not Method.losses]
TOLERANCE = {"fp32": 1e-3, "tf32": 1e-2, "bf16": 0.1, "fp16": 0.05}


def losses(eager: bool, **changes: Any) -> list[float]:
    told = Listener()
    train(replace(LONGER, **changes), few_images(), told, device="cuda", eager=eager)
    assert told.epochs[-1].eager_because == ("it was asked for" if eager else None)
    assert (told.epochs[-1].peak_memory or 0) > 0
    return [epoch.loss for epoch in told.epochs]


@pytest.mark.parametrize("precision", TOLERANCE)
def test_captured_and_eager_runs_lose_the_same_float32(precision: PrecisionName) -> None:
    captured, eager = (losses(way, precision=precision) for way in (False, True))
    assert captured == pytest.approx(eager, rel=TOLERANCE[precision])


@pytest.mark.parametrize("method", BY_STEPS)
def test_every_method_can_be_captured(method: MethodName) -> None:
    extra: dict[str, Any] = {"exemplars": 20} if METHODS[method].needs_exemplars else {}
    captured, eager = (losses(way, method=method, **extra) for way in (False, True))
    assert captured == pytest.approx(eager, rel=1e-2)


def test_recomputed_and_partial_steps_can_be_captured() -> None:
    changes: dict[str, Any] = {"recompute": True, "widths": (8.0,), "channels": 8, "widths_per_step": 3}
    captured, eager = (losses(way, **changes) for way in (False, True))
    assert captured == pytest.approx(eager, rel=1e-2)


def strictly(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which raises where the host would wait for the device."""

    def strict(*arguments: Any, **options: Any) -> Any:
        torch.cuda.set_sync_debug_mode("error")
        try:
            return function(*arguments, **options)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    return strict


def test_no_eager_step_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrainStep, "__call__", strictly(TrainStep.__call__))
    losses(eager=True)


def test_no_replay_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    record = CudaGraphs.record

    def strict(self: CudaGraphs, *arguments: Any) -> Recorded:
        recorded = record(self, *arguments)
        assert recorded.replay is not None
        return recorded._replace(replay=strictly(recorded.replay))

    monkeypatch.setattr(CudaGraphs, "record", strict)
    losses(eager=False)


class Strict(Listener):
    """Lets the host wait for the device nowhere in the last epoch of a task, from its first step to its last."""

    def started(self, plan: Plan, task: int, epoch: int) -> None:
        super().started(plan, task, epoch)
        self.steps, self.epochs_of_a_task = plan.steps, plan.epochs

    def step_launched(self, task: int, epoch: int, steps: int) -> None:
        within = epoch == self.epochs_of_a_task - 1 and steps < self.steps[task]
        torch.cuda.set_sync_debug_mode("error" if within else "default")


@pytest.mark.parametrize("eager", [False, True], ids=["captured", "eager"])
def test_no_epoch_waits_for_the_device(eager: bool) -> None:
    try:
        train(LONGER, few_images(), Strict(), device="cuda", eager=eager)
    finally:
        torch.cuda.set_sync_debug_mode("default")
