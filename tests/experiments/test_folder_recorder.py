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


class Clock:
    """Storing takes a second; else time passes only when told to."""

    def __init__(self, folder: RunFolder) -> None:
        self.now = 0.0
        save = folder.save_checkpoint

        def slowly(state: dict[str, int]) -> None:
            save(state)
            self.now += 1.0

        folder.save_checkpoint = slowly

    def __call__(self) -> float:
        return self.now


def test_checkpoints_of_short_epochs_are_left_out_but_never_those_of_tasks(folder: RunFolder) -> None:
    clock = Clock(folder)
    recorder = FolderRecorder(folder, clock)
    recorder.started(PLAN, 0, 0)
    for epoch in range(3):
        recorder.epoch_finished(SUMMARY)
        recorder.checkpoint({"epoch": epoch})
    assert folder.load_checkpoint() == {"epoch": 0}
    assert kinds(folder) == ["started", "epoch_finished"]
    clock.now += 10
    recorder.checkpoint({"epoch": 3})
    assert folder.load_checkpoint() == {"epoch": 3}
    recorder.task_finished(0, COUNTS)
    recorder.checkpoint({"task": 1})
    assert folder.load_checkpoint() == {"task": 1}
    assert kinds(folder).count("epoch_finished") == 3


def test_starting_again_forgets_the_counts_of_the_run_that_was(folder: RunFolder) -> None:
    folder.save_counts(COUNTS)
    FolderRecorder(folder).started(PLAN, 0, 1)
    assert folder.counts() == COUNTS
    FolderRecorder(folder).started(PLAN, 0, 0)
    assert folder.counts() is None
