"""A recorder that keeps the run in its folder."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from slimkern.continual.metrics import Counts
from slimkern.continual.recorder import EpochSummary, Plan, Recorder
from slimkern.experiments.run_folder import RunFolder


class FolderRecorder(Recorder):
    """Writes checkpoints, counts and events to a run folder that is open for writing.

    A checkpoint inside a task is left out as long as storing them would take more than a tenth of the time, so that
    large networks with short epochs aren't held up; what a kill then costs is a few epochs.

    Events of epochs and tasks, and what is noted, wait for the checkpoint that holds them. So a run killed in between
    tells of an epoch once, although it is trained twice.
    """

    def __init__(self, folder: RunFolder, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder = folder
        self._clock = clock
        self._due = -math.inf
        self._waiting: list[tuple[str, dict[str, Any]]] = []

    def started(self, plan: Plan, task: int, epoch: int) -> None:
        """Notes the plan, where the run begins, and the versions that train it."""
        if (task, epoch) == (0, 0):
            self.folder.drop_counts()
        versions = {"slimkern": _version("slimkern"), "torch": _version("torch")}
        self.folder.append_event("started", task=task, epoch=epoch, plan=asdict(plan), versions=versions)

    def epoch_finished(self, summary: EpochSummary) -> None:
        """Keeps the summary until the next checkpoint."""
        self._waiting.append(("epoch_finished", asdict(summary)))

    def task_finished(self, task: int, counts: Counts) -> None:
        """Stores the counts; the event waits for the next checkpoint."""
        self.folder.save_counts(counts)
        self._waiting.append(("task_finished", {"task": task}))
        self._due = -math.inf

    def noted(self, kind: str, facts: dict[str, Any]) -> None:
        """Keeps the note until the next checkpoint."""
        self._waiting.append((kind, facts))

    def checkpoint(self, state: dict[str, Any]) -> None:
        """Stores the state, if it is time to, then the events that led to it."""
        started = self._clock()
        if started < self._due:
            return
        self.folder.save_checkpoint(state)
        stored = self._clock()
        self._due = stored + 9 * (stored - started)
        self._write_waiting()

    def finished(self, counts: Counts) -> None:
        """Stores the counts of the whole run and closes the list of events."""
        self.folder.save_counts(counts)
        self._write_waiting()
        self.folder.append_event("finished")

    def _write_waiting(self) -> None:
        for kind, fields in self._waiting:
            self.folder.append_event(kind, **fields)
        self._waiting.clear()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
