"""Runs whose steps are recorded, recomputed, in another precision, or of some widths only."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from slimkern.captured_step import CapturedStep
from slimkern.continual import training
from slimkern.continual.config import MethodName
from slimkern.continual.methods import METHODS, FineTuning, Method
from slimkern.continual.step import TrainStep
from slimkern.continual.training import train
from tests.continual.few_digits import TINY, Listener, differences, few_digits, restored
from tests.continual.test_training import trained
from tests.logged_graphs import LoggedGraphs

EIGHT: dict[str, Any] = {"widths": (8.0,), "channels": 8, "widths_per_step": 3}


@pytest.mark.parametrize(
    "changes", [{"precision": "fp16"}, {"precision": "bf16", "recompute": True}, EIGHT], ids=["fp16", "bf16", "widths"]
)
def test_resumed_runs_end_the_same_at_every_setting_of_a_step(changes: dict[str, Any]) -> None:
    unbroken = trained(**changes)
    resumed = Listener()
    train(replace(TINY, **changes), few_digits(), resumed, state=restored(unbroken.checkpoints[3]))
    assert not differences(restored(unbroken.checkpoints[-1]), restored(resumed.checkpoints[-1]))


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("autoactivator", "scl-pnc")])
def test_every_method_runs_in_half_precision(method: MethodName) -> None:
    extra: dict[str, Any] = {"exemplars": 20} if METHODS[method].needs_exemplars else {}
    told = trained(method=method, precision="bf16", epochs=1, **extra)
    assert told.counts is not None and told.counts.complete


def test_recomputing_changes_nothing_but_memory_and_time() -> None:
    kept, again = (restored(trained(**changes).checkpoints[-1]) for changes in ({}, {"recompute": True}))
    assert not differences(kept, again)


def test_with_some_widths_a_step_every_width_has_its_mean_loss() -> None:
    told = trained(**EIGHT)
    every = {"cross-entropy", *(f"cross-entropy at {width / 8:g}" for width in range(1, 8))}
    assert set().union(*(epoch.losses for epoch in told.epochs)) == every
    for epoch in told.epochs:
        # Each step adds three cross-entropies of five classes, near ln 5 at first.
        assert 3 < epoch.loss < 12
        assert all(0.5 < loss < 5 for name, loss in epoch.losses.items())


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.losses is not Method.losses])
def test_a_run_of_recorded_steps_ends_where_an_eager_one_does(
    method: MethodName, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = {"method": method, **({"exemplars": 20} if METHODS[method].needs_exemplars else {})}
    eager, recorded = trained(eager=True, **changes), Listener()
    LoggedGraphs.log.clear()
    monkeypatch.setattr(training, "capture", logged)
    train(replace(TINY, **changes), few_digits(), recorded)
    assert not differences(restored(eager.checkpoints[-1]), restored(recorded.checkpoints[-1]))
    # The last step of an epoch may be shorter: each task has up to two graphs, which end with it.
    assert 2 <= LoggedGraphs.log.count("recorded") == LoggedGraphs.log.count("eager") <= 4
    assert {epoch.eager_because for epoch in recorded.epochs} == {None}


def test_a_method_may_refuse_to_be_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    LoggedGraphs.log.clear()
    monkeypatch.setattr(training, "capture", logged)
    monkeypatch.setattr(FineTuning, "eager_because", "it reads its loss back")
    train(TINY, few_digits())
    assert not LoggedGraphs.log


def logged(step: TrainStep, *modules: Any, eager_because: str | None) -> CapturedStep:
    return CapturedStep(step, modules, eager_because, warmup=1, graphs=LoggedGraphs)
