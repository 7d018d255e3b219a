from __future__ import annotations

from typing import Any

import pytest

from slimkern.continual.metrics import Counts
from slimkern.continual.recorder import EpochSummary, Plan, Recorder, Several

PLAN = Plan(tasks=(2, 2), epochs=1, steps=(5, 5), widths=(0.5, 1.0), parameters=10)
SUMMARY = EpochSummary(0, 0, 1.0, {"penalty": 0.1}, 0.1, None, 2.0)
COUNTS = Counts.empty((0.5, 1.0), (10, 10))


class Diary:
    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *what: self.heard.append((name, *what))


def tell_all(recorder: Recorder) -> None:
    recorder.started(PLAN, 0, 0)
    recorder.step_launched(0, 0, 5)
    recorder.epoch_finished(SUMMARY)
    recorder.task_finished(0, COUNTS)
    recorder.checkpoint({"step": 1})
    recorder.finished(COUNTS)


def test_several_passes_everything_on_to_each() -> None:
    diaries: tuple[Any, ...] = (Diary(), Diary(), Diary())
    alone, first, second = diaries
    tell_all(alone)
    tell_all(Several([first, Recorder(), second]))
    assert len(alone.heard) == 6
    assert first.heard == second.heard == alone.heard


def test_a_plan_needs_steps_for_every_task() -> None:
    with pytest.raises(ValueError, match="steps names 1 tasks and tasks 2"):
        Plan(tasks=(2, 2), epochs=1, steps=(5,), widths=(1.0,), parameters=10)
