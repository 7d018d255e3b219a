from __future__ import annotations

from pathlib import Path

import pytest

from slimkern.continual.metrics import Counts
from slimkern.continual.recorder import EpochSummary, Plan
from slimkern.experiments.folder_recorder import FolderRecorder
from slimkern.experiments.run_folder import RunFolder

PLAN = Plan(tasks=(2, 2), epochs=1, steps=(5, 5), widths=(1.0,), parameters=10)
SUMMARY = EpochSummary(0, 0, 1.5, {"penalty": 0.5}, 0.1, None, 2.0)
COUNTS = Counts.empty((1.0,), (10,)).with_row([[7]], [[6]])


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.open(tmp_path / "run", {"seed": 0})


def kinds(folder: RunFolder) -> list[str]:
    return [event["kind"] for event in folder.events()]


def test_a_run_is_kept_whole(folder: RunFolder) -> None:
    recorder = FolderRecorder(folder)
    recorder.started(PLAN, 0, 0)
    recorder.epoch_finished(SUMMARY)
    recorder.checkpoint({"epoch": 1})
    recorder.task_finished(0, COUNTS)
    recorder.checkpoint({"epoch": 1, "task": 1})
    recorder.finished(COUNTS)
    started, epoch, *_ = folder.events()
    assert kinds(folder) == ["started", "epoch_finished", "task_finished", "finished"]
    assert started["plan"]["tasks"] == [2, 2] and started["versions"]["torch"]
    assert {key: epoch[key] for key in ("task", "epoch", "loss", "losses", "validation_accuracy")} == {
        "task": 0,
        "epoch": 0,
        "loss": 1.5,
        "losses": {"penalty": 0.5},
        "validation_accuracy": None,
    }
    assert folder.counts() == COUNTS
    assert folder.load_checkpoint() == {"epoch": 1, "task": 1}


def test_an_epoch_trained_again_after_a_kill_is_told_once(folder: RunFolder) -> None:
    killed = FolderRecorder(folder)
    killed.started(PLAN, 0, 0)
    killed.epoch_finished(SUMMARY)
    resumed = FolderRecorder(folder)
    resumed.started(PLAN, 0, 0)
    resumed.epoch_finished(SUMMARY)
    resumed.checkpoint({})
    assert kinds(folder) == ["started", "started", "epoch_finished"]
