from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slimkern.continual.recorder import Recorder
from slimkern.experiments.config_file import FolderInUseError, RunFolderError
from slimkern.experiments.run import resolved
from slimkern.experiments.run_folder import RunFolder
from slimkern.experiments.sweeps.job import Job, Progress, attempt, progress_of
from tests.experiments.sweeps.small_jobs import small_job


class Stop(Recorder):
    """Interrupts a run when so many checkpoints have been stored."""

    def __init__(self, after: int) -> None:
        self.left = after

    def checkpoint(self, state: dict[str, Any]) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def test_a_folder_tells_how_far_its_run_is(tmp_path: Path) -> None:
    job = small_job(tmp_path / "run")
    found = [progress_of(job)]
    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            attempt(job, [Stop(1)])
        found.append(progress_of(job))
    attempt(job)
    assert found == [
        Progress("missing"),
        Progress("unfinished", 0.25, "task 1/2, epoch 1/2"),
        Progress("unfinished", 0.5, "task 1/2, epoch 2/2"),
        Progress("unfinished", 0.5, "task 1/2, epoch 2/2"),
        Progress("unfinished", 0.75, "task 2/2, epoch 1/2"),
    ]
    assert progress_of(job) == Progress("finished", 1.0)


def test_a_folder_without_an_epoch_is_unfinished(tmp_path: Path) -> None:
    job = small_job(tmp_path)
    RunFolder.open(tmp_path, resolved(job.config, "shift")).close()
    assert progress_of(job) == Progress("unfinished", 0.0, "no epoch yet")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"another configuration.*\n  seed: given 1, found 0"),
        ('{"format": 99, "config": {}}', "has format version 99; this slimkern reads version 1"),
    ],
    ids=["other configuration", "other version"],
)
def test_a_folder_that_is_none_of_the_jobs_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    job = small_job(tmp_path)
    RunFolder.open(tmp_path, resolved(job.config, "shift")).close()
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(RunFolderError, match=message):
        progress_of(Job(replace(job.config, seed=1), tmp_path))


def test_a_folder_in_use_is_waited_for_but_not_for_ever(tmp_path: Path) -> None:
    job = small_job(tmp_path)
    with (
        RunFolder.open(tmp_path, resolved(job.config, "shift")),
        pytest.raises(FolderInUseError, match=r"is in use: .* \(process \d+ on .+\)"),
    ):
        attempt(job, patience=0.0)
    attempt(job)
    assert progress_of(job).kind == "finished"
