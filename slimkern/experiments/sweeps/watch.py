"""Showing how far many runs are."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn
from rich.progress import Progress as Bar

from slimkern.experiments.config_file import RunFolderError
from slimkern.experiments.progress import duration
from slimkern.experiments.sweeps.job import Job, Outcome, Progress, progress_of
from slimkern.experiments.sweeps.sweep import Watcher

_SHOWN = 3
_PATIENCE = 20.0
"""How many times longer than looking at all folders takes they are left alone, so that looking costs little."""


class ProgressWatcher(Watcher):
    """Says when a run is handed over and how it ends, and on a terminal shows how far all of them are.

    What is shown is read from the run folders, so it is the same wherever the runs are trained.

    Args:
        jobs: all that are going to be trained.
        console: where to write; standard output by default.
        clock: seconds that only ever grow.
    """

    def __init__(
        self, jobs: Sequence[Job], console: Console | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console or Console()
        self._clock = clock
        self._total = len(jobs)
        self._ended = self._failed = 0
        self._look_again = 0.0
        self._shares = {job: progress_of(job).share for job in jobs}
        self._began, self._share_then = clock(), sum(self._shares.values())
        columns = SpinnerColumn(), BarColumn(bar_width=24), TextColumn("{task.description}", markup=False)
        self._bar = Bar(*columns, console=self._console, transient=True, disable=not self._console.is_terminal)
        self._line = self._bar.add_task("", total=self._total)

    def __enter__(self) -> ProgressWatcher:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()

    def started(self, job: Job) -> None:
        """Says so, and where an unfinished run goes on. A cluster may let it wait for its turn."""
        found = progress_of(job)
        self._print(f"{job.name}: on its way{', again, after ' + found.detail if found.share else ''}")

    def waited(self, running: Sequence[Job]) -> None:
        """Moves the live line on."""
        if self._bar.disable or self._clock() < self._look_again:
            return
        looked, shown = self._clock(), []
        for job in running:
            # A folder may be looked at while it comes into being.
            with suppress(RunFolderError, OSError):
                shown.append((job, self._look(job)))
        now = self._clock()
        self._look_again = now + _PATIENCE * (now - looked)
        parts = [f"{self._ended} of {self._total} runs", *([f"{self._failed} failed"] if self._failed else [])]
        parts += [f"{job.name} {found.detail}" for job, found in shown if found.detail][:_SHOWN]
        self._bar.update(
            self._line, completed=sum(self._shares.values()), description="  ".join([*parts, self._left()])
        )

    def ended(self, outcome: Outcome) -> None:
        """Says how, and how long the rest will take."""
        self._ended += 1
        self._failed += outcome.failure is not None
        self._shares[outcome.job] = 1.0
        self._look_again = 0.0
        end = "finished" if outcome.failure is None else f"failed: {outcome.failure}"
        self._print(f"{outcome.job.name}: {end} ({self._ended} of {self._total}, {self._left()})")

    def _look(self, job: Job) -> Progress:
        found = progress_of(job)
        self._shares[job] = found.share
        return found

    def _left(self) -> str:
        done = sum(self._shares.values())
        if done <= self._share_then:
            return "time left unknown"
        pace = (self._clock() - self._began) / (done - self._share_then)
        return f"{duration(pace * (self._total - done))} left"

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)
