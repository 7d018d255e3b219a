"""Training many runs with a pool of workers."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol

from slimkern.experiments.sweeps.job import Job, Outcome


class FailedRunsError(RuntimeError):
    """Some runs of many have failed; the message names them and why. The others are finished."""


class Pool(Protocol):
    """Where jobs are trained. Leaving its context ends those that are still running."""

    slots: int
    """How many jobs may be handed over at once."""

    def start(self, job: Job) -> None:
        """Takes over a job."""
        ...

    def wait(self, seconds: float) -> list[Outcome]:
        """The jobs that have ended since the last call; waits at most so long for one."""
        ...

    def __enter__(self) -> Pool: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...


class Watcher:
    """Listens to a sweep; this one ignores all it hears."""

    def started(self, job: Job) -> None:
        """A job was handed to the pool."""

    def waited(self, running: Sequence[Job]) -> None:
        """Nothing may have happened; called about once a second."""

    def ended(self, outcome: Outcome) -> None:
        """A job has finished or failed."""


def sweep(jobs: Sequence[Job], pool: Pool, watcher: Watcher | None = None) -> list[Outcome]:
    """Trains every job; one that fails doesn't stop the others.

    Returns:
        How each job ended, in the order in which they ended.
    """
    watcher = watcher or Watcher()
    waiting, running, outcomes = deque(jobs), set[Job](), list[Outcome]()
    with pool:
        while waiting or running:
            while waiting and len(running) < pool.slots:
                job = waiting.popleft()
                pool.start(job)
                running.add(job)
                watcher.started(job)
            for outcome in pool.wait(1.0):
                running.remove(outcome.job)
                outcomes.append(outcome)
                watcher.ended(outcome)
            watcher.waited([job for job in jobs if job in running])
    return outcomes


def refuse_failures(outcomes: Sequence[Outcome]) -> None:
    """Raises FailedRunsError if a run has failed."""
    failed = [outcome for outcome in outcomes if outcome.failure is not None]
    if failed:
        lines = [f"  {outcome.job.name}: {outcome.failure}" for outcome in failed]
        raise FailedRunsError(
            "\n".join([f"{len(failed)} of {len(outcomes)} runs failed; the same command tries them again:", *lines])
        )
