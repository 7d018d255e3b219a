from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from slimkern.continual.metrics import Counts
from slimkern.continual.recorder import EpochSummary, Plan
from slimkern.experiments.tensorboard import TensorBoardRecorder

PLAN = Plan(tasks=(2, 2), epochs=2, steps=(5, 5), widths=(0.5, 1.0), parameters=10)
COUNTS = Counts.empty((0.5, 1.0), (10, 10)).with_row([[7, 8]], [[5, 6]])


def curves(path: Path) -> dict[str, list[tuple[int, float]]]:
    accumulator: Any = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(path)).Reload()
    return {
        name: [(scalar.step, round(scalar.value, 4)) for scalar in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def test_a_resumed_run_continues_the_curves_without_doubles(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")

    def epoch(task: int, epoch: int, loss: float) -> EpochSummary:
        return EpochSummary(task, epoch, loss, {"penalty": loss / 2}, 0.1, 50.0, 1.0)

    killed = TensorBoardRecorder(tmp_path)
    killed.started(PLAN, 0, 0)
    killed.epoch_finished(epoch(0, 0, 4.0))
    killed.epoch_finished(epoch(0, 1, 3.0))
    killed.task_finished(0, COUNTS)
    killed.epoch_finished(epoch(1, 0, 9.0))
    killed.checkpoint({})

    resumed = TensorBoardRecorder(tmp_path)
    resumed.started(PLAN, 1, 0)
    resumed.epoch_finished(epoch(1, 0, 2.0))
    resumed.finished(COUNTS)

    found = curves(tmp_path)
    assert found["loss"] == [(0, 4.0), (1, 3.0), (2, 2.0)]
    assert found["losses/penalty"] == [(0, 2.0), (1, 1.5), (2, 1.0)]
    assert found["average accuracy, task-agnostic/width 0.5"] == [(1, 50.0)]
    assert found["average accuracy, task-aware/width 1"] == [(1, 80.0)]
