from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import pytest
from rich.console import Console

from slimkern.experiments.sweeps.job import Job, Outcome
from slimkern.experiments.sweeps.sweep import FailedRunsError, Watcher, refuse_failures, sweep
from slimkern.experiments.sweeps.watch import ProgressWatcher
from tests.experiments.sweeps.small_jobs import small_job


class PretendedPool:
    """Ends the job that was started last, and fails those whose name says so."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.running: list[Job] = []
        self.most, self.open = 0, False

    def __enter__(self) -> PretendedPool:
        self.open = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.open = False

    def start(self, job: Job) -> None:
        assert self.open
        self.running.append(job)
        self.most = max(self.most, len(self.running))

    def wait(self, seconds: float) -> list[Outcome]:
        job = self.running.pop()
        return [Outcome(job, "a reason" if "bad" in job.name else None)]


class Listener(Watcher):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def started(self, job: Job) -> None:
        self.heard.append(f"+{job.name}")

    def waited(self, running: Sequence[Job]) -> None:
        self.heard.append(",".join(job.name for job in running))

    def ended(self, outcome: Outcome) -> None:
        self.heard.append(f"-{outcome.job.name}")


def jobs(folder: Path, *names: str) -> list[Job]:
    return [small_job(folder / name) for name in names]


def test_a_failed_job_does_not_stop_the_others(tmp_path: Path) -> None:
    pool = PretendedPool(slots=2)
    outcomes = sweep(jobs(tmp_path, "a", "bad", "c"), pool)
    assert [(outcome.job.name, outcome.failure) for outcome in outcomes] == [
        ("bad", "a reason"),
        ("c", None),
        ("a", None),
    ]
    assert pool.most == 2 and not pool.open


def test_a_watcher_hears_of_everything(tmp_path: Path) -> None:
    listener = Listener()
    sweep(jobs(tmp_path, "a", "b"), PretendedPool(slots=1), listener)
    assert listener.heard == ["+a", "-a", "", "+b", "-b", ""]


def test_failures_are_listed_with_their_reasons(tmp_path: Path) -> None:
    outcomes = sweep(jobs(tmp_path, "a", "bad"), PretendedPool(slots=1))
    with pytest.raises(FailedRunsError) as error:
        refuse_failures(outcomes)
    assert str(error.value) == "1 of 2 runs failed; the same command tries them again:\n  bad: a reason"
    refuse_failures(outcomes[:1])


def test_progress_is_printed_a_line_an_event(tmp_path: Path) -> None:
    own, file = jobs(tmp_path, "a", "bad", "c"), io.StringIO()
    seconds = iter(range(100))
    with ProgressWatcher(own, Console(file=file, width=200), clock=lambda: 10.0 * next(seconds)) as watcher:
        sweep(own, PretendedPool(slots=1), watcher)
    assert file.getvalue().splitlines() == [
        "a: on its way",
        "a: finished (1 of 3, 20 s left)",
        "bad: on its way",
        "bad: failed: a reason (2 of 3, 10 s left)",
        "c: on its way",
        "c: finished (3 of 3, 0 s left)",
    ]


def test_a_terminal_shows_all_runs_in_one_line(tmp_path: Path) -> None:
    own, file = jobs(tmp_path, "a", "bad", "c"), io.StringIO()
    with ProgressWatcher(own, Console(file=file, force_terminal=True, width=200)) as watcher:
        sweep(own, PretendedPool(slots=1), watcher)
        watcher.waited([])
        watcher._bar.refresh()
    assert "3 of 3 runs  1 failed" in file.getvalue()
