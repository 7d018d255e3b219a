"""Steps in processes of their own, each with a limit of its own, and a journal of how they ended.

The folder of a campaign holds few files, as some machines give only a few back: `journal.jsonl`, how each step ended;
`rows.jsonl`, what it measured, as it came; `log.txt`, what steps printed, and `now-<step>.txt`, what a step prints that
still runs; whatever steps leave there themselves; and `page.md`, written anew after each step.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

Status = Literal["passed", "failed", "crashed", "hung", "no time"]
LEAST = 10.0
"""Seconds that a step is worth beginning with, if it may take longer."""


@dataclass(frozen=True)
class Step:
    """A command of a campaign.

    Attributes:
        name: in letters, digits and hyphens.
        what: one line on what it tells.
        command: program and arguments.
        seconds: its limit.
        variables: of its environment, beside the campaign's.
        beside: whether it runs beside the steps after it, as it needs no GPU.
    """

    name: str
    what: str
    command: Sequence[str]
    seconds: float
    variables: Mapping[str, str] = field(default_factory=dict)
    beside: bool = False


@dataclass(frozen=True)
class Ending:
    """How a step ended: its status, exit status (None where it was stopped) and seconds."""

    step: str
    status: Status
    exit: int | None
    seconds: float


class Journal:
    """How steps ended, a line each, on disk the moment it is known."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "journal.jsonl"

    def endings(self) -> dict[str, Ending]:
        """The last ending of each step. A line that was cut short by a power failure is no ending."""
        last: dict[str, Ending] = {}
        if self.path.is_file():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    ending = Ending(**json.loads(line))
                except (ValueError, TypeError):
                    continue
                last[ending.step] = ending
        return last

    def add(self, ending: Ending) -> None:
        """Note an ending."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(ending)) + "\n")


class _Running:
    """A step's process, its output in a file."""

    def __init__(self, step: Step, folder: Path, variables: Mapping[str, str], seconds: float) -> None:
        self.step, self._folder, self._began = step, folder, time.monotonic()
        self.deadline = self._began + seconds
        self._output = folder / f"now-{step.name}.txt"
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                list(step.command), stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                env={**os.environ, **variables, **step.variables}, start_new_session=True,
            )  # fmt: skip

    def wait(self) -> Ending:
        """Wait for the end, or bring it about at the deadline; the output moves to the log."""
        status: Status
        try:
            code = self._process.wait(max(self.deadline - time.monotonic(), 0))
            status = "passed" if code == 0 else "failed" if code > 0 else "crashed"
        except subprocess.TimeoutExpired:
            code, status = None, "hung"
        self._stop_group()
        ending = Ending(self.step.name, status, code, round(time.monotonic() - self._began, 1))
        text = self._output.read_text(encoding="utf-8", errors="replace")
        with (self._folder / "log.txt").open("a", encoding="utf-8") as log:
            log.write(f"\n===== {ending.step}: {ending.status}, exit {ending.exit}, {ending.seconds} s\n{text}")
        self._output.unlink()
        return ending

    def _stop_group(self) -> None:
        """End the step's processes, also those that it left behind."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


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
        folder: of the campaign; made if it isn't there.
        seconds: for all of it. A step gets no more than are left, and isn't begun when too few are.
        variables: of every step's environment.
        after_each: called with all endings whenever there is a new one.
        tell: takes a line for people.

    Returns:
        The ending of each step that has one.

    Raises:
        OSError: the folder can't be written, or a program isn't there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    journal, end = Journal(folder), time.monotonic() + seconds
    noting = threading.Lock()

    def note(ending: Ending) -> None:
        with noting:
            journal.add(ending)
            tell(f"{ending.step}: {ending.status} ({ending.seconds} s)")
            after_each(journal.endings())

    def follow(running: _Running) -> None:
        note(running.wait())

    followers = []
    for step in steps:
        before = journal.endings().get(step.name)
        if before and before.status != "no time":
            tell(f"{step.name}: {before.status} before")
            continue
        left = end - time.monotonic()
        if left < min(LEAST, step.seconds):
            note(Ending(step.name, "no time", None, 0.0))
            continue
        tell(f"{step.name}: {step.what}, {min(step.seconds, left):.0f} s at most")
        running = _Running(step, folder, variables, min(step.seconds, left))
        if step.beside:
            followers.append(threading.Thread(target=follow, args=(running,)))
            followers[-1].start()
        else:
            follow(running)
    for follower in followers:
        follower.join()
    return journal.endings()
