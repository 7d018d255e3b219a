"""Steps in processes of their own, each with a limit of its own: one that dies or hangs takes nothing else along."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from lines import STEP

from campaign.journal import Ending, Journal, Step, forget
from campaign.process import StepProcess

LEAST = 10.0
"""Seconds that a step is worth beginning with, if it may take longer."""


class CampaignError(Exception):
    """A campaign can't run; the message says why."""


def run(
    steps: Sequence[Step],
    folder: Path,
    seconds: float,
    variables: Mapping[str, str],
    after_each: Callable[[dict[str, Ending]], None],
    tell: Callable[[str], None] = print,
) -> dict[str, Ending]:
    """Run the steps that haven't ended yet, as far as the time goes.

    Args:
        steps: in their order.
        folder: of the campaign.
        seconds: for all of it. A step gets no more than are left, and isn't begun when too few are.
        variables: of every step's environment.
        after_each: called with all endings whenever there is a new one.
        tell: takes a line for people.

    Returns:
        The ending of each step that has one.

    Raises:
        CampaignError: another campaign runs in the folder.
        OSError: the folder can't be written.
    """
    with _alone_in(folder):
        return _Campaign(folder, variables, after_each, tell).run(steps, time.monotonic() + seconds)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    held = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CampaignError(f"another campaign runs in {folder}") from None
        yield
    finally:
        os.close(held)


class _Campaign:
    def __init__(
        self,
        folder: Path,
        variables: Mapping[str, str],
        after_each: Callable[[dict[str, Ending]], None],
        tell: Callable[[str], None],
    ) -> None:
        self._folder, self._variables, self._after_each, self._tell = folder, variables, after_each, tell
        self._journal, self._noting = Journal(folder), threading.Lock()

    def run(self, steps: Sequence[Step], end: float) -> dict[str, Ending]:
        running: list[StepProcess] = []
        followers: list[threading.Thread] = []
        try:
            for step in steps:
                if (process := self._begun(step, end)) is None:
                    continue
                running.append(process)
                if step.beside:
                    followers.append(threading.Thread(target=self._follow, args=(process,)))
                    followers[-1].start()
                else:
                    self._follow(process)
            for follower in followers:
                follower.join()
        finally:
            for process in running:
                process.stop()
        return self._journal.endings()

    def _begun(self, step: Step, end: float) -> StepProcess | None:
        """The step's process, unless it has ended before or there is no time for it."""
        before = self._journal.endings().get(step.name)
        if before and before.status != "no time":
            self._tell(f"{step.name}: {before.status} before")
            return None
        left = end - time.monotonic()
        if left < min(LEAST, step.seconds):
            self._note(Ending(step.name, "no time", None, 0.0))
            return None
        self._tell(f"{step.name}: {step.what}, {min(step.seconds, left):.0f} s at most")
        forget(self._folder, step.name)
        return StepProcess(step, self._folder, {**self._variables, STEP: step.name}, left)

    def _follow(self, process: StepProcess) -> None:
        self._note(process.wait())

    def _note(self, ending: Ending) -> None:
        with self._noting:
            self._journal.add(ending)
            self._tell(f"{ending.step}: {ending.status} ({ending.seconds} s)")
            self._after_each(self._journal.endings())
