from __future__ import annotations

from pathlib import Path

import pytest

from slimkern.continual.config import TrainConfig
from slimkern.continual.recorder import Recorder
from slimkern.experiments.run import run
from slimkern.experiments.run_folder import RunFolder
from tests.continual.test_processes import torchrun

COMMAND = "--device cpu --tasks 2 --epochs 2 --channels 4 --learning-rate 0.001 --validation 0.9"
CONFIG = TrainConfig(tasks=2, epochs=2, channels=4, learning_rate=0.001, validation=0.9)
"""Little is learned at this rate, so that the rounding of float32 doesn't grow into another run."""


class Stop(Recorder):
    """Interrupts a run after its first checkpoint."""

    def checkpoint(self, state: object) -> None:
        raise KeyboardInterrupt


def losses(folder: Path) -> list[float]:
    return [event["loss"] for event in RunFolder.read(folder).events() if event["kind"] == "epoch_finished"]


def test_two_processes_go_on_with_a_run_and_only_the_first_writes(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("tyro")
    begun, whole = tmp_path / "begun", tmp_path / "whole"
    with pytest.raises(KeyboardInterrupt):
        run(CONFIG, begun, recorders=[Stop()])
    done = torchrun("-m", "slimkern", "train", *COMMAND.split(), "--out", str(begun))
    assert done.returncode == 0, done.stderr
    run(CONFIG, whole)
    found = RunFolder.read(begun)
    kinds = [event["kind"] for event in found.events() if event["kind"] in ("started", "task_finished", "finished")]
    assert kinds == ["started", "started", "task_finished", "task_finished", "finished"]
    assert found.counts().complete  # pyright: ignore[reportOptionalMemberAccess]
    assert losses(begun) == pytest.approx(losses(whole), rel=1e-3)
    assert done.stdout.count("resumed after 0 of 2 tasks, 1 of 2 epochs") == 1
    assert done.stdout.count("The run is in") == 1
