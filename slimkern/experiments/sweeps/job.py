"""One run of many, and how far it is."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from slimkern.continual.config import TrainConfig
from slimkern.continual.recorder import Recorder
from slimkern.experiments.config_file import FolderInUseError, refuse_difference
from slimkern.experiments.run import resolved, run
from slimkern.experiments.run_folder import CONFIG, RunFolder
from slimkern.memory import keep_freed_memory


@dataclass(frozen=True, eq=False)
class Job:
    """A run to be trained somewhere.

    Attributes:
        config: what to train.
        folder: its run folder, absolute; on a cluster, on a path that every node sees.
        root: folder of the data sets, for all but digits.
        device: cpu or cuda: which GPU is up to those who place the job.
    """

    config: TrainConfig
    folder: Path
    root: Path | None = None
    device: Literal["cpu", "cuda"] = "cpu"

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.folder.name


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes:
        job: the job.
        failure: why it failed, in one line; None if it finished.
    """

    job: Job
    failure: str | None = None


@dataclass(frozen=True)
class Progress:
    """How far a run is, as its folder tells.

    Attributes:
        kind: missing, unfinished or finished.
        share: epochs done, of all epochs of all tasks.
        detail: where an unfinished run is, in words.
    """

    kind: Literal["missing", "unfinished", "finished"]
    share: float = 0.0
    detail: str = ""


def attempt(job: Job, recorders: Sequence[Recorder] = (), patience: float = 30.0) -> None:
    """Trains a job in this process, going on where its folder ends.

    A folder in use is waited for: a process that was killed may hold it a moment longer than its successor needs.

    Args:
        job: the job.
        recorders: told of the run.
        patience: seconds to wait for the folder.

    Raises:
        FolderInUseError: another process still trains in the folder.
        Exception: as `slimkern.experiments.run.run`.
    """
    keep_freed_memory()
    deadline = time.monotonic() + patience
    while True:
        try:
            run(job.config, job.folder, job.root, device=job.device, recorders=recorders)
            return
        except FolderInUseError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.5)


def progress_of(job: Job) -> Progress:
    """How far a job is.

    Raises:
        RunFolderError: its folder is damaged, of another format version, or holds another configuration.
    """
    if not (job.folder / CONFIG).exists():
        return Progress("missing")
    folder, config = RunFolder.read(job.folder), job.config
    refuse_difference(job.folder, _comparable(job, folder.config), folder.config)
    counts = folder.counts()
    if counts is not None and counts.complete:
        return Progress("finished", 1.0)
    epochs = [(event["task"], event["epoch"]) for event in folder.events() if event["kind"] == "epoch_finished"]
    if not epochs:
        return Progress("unfinished", 0.0, "no epoch yet")
    task, epoch = epochs[-1]
    share = (task * config.epochs + epoch + 1) / (config.tasks * config.epochs)
    return Progress("unfinished", share, f"task {task + 1}/{config.tasks}, epoch {epoch + 1}/{config.epochs}")


def _comparable(job: Job, found: dict[str, Any]) -> dict[str, Any]:
    """The job's configuration as its folder would hold it; the data set's own augmentation is known to the folder."""
    return json.loads(json.dumps(resolved(job.config, found.get("augmentation", ""))))
