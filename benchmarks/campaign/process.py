"""A step's process: its output in a file, its limit, and an end for all that it started."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from campaign.journal import Ending, Status, Step


class StepProcess:
    """A step that runs. What it prints is in `now-<step>.txt` meanwhile, and in the campaign's `log.txt` after its end.

    Args:
        step: what to run.
        folder: of the campaign.
        variables: of the environment, beside the step's own.
        seconds: that are left for it; it gets no more than its limit.
    """

    def __init__(self, step: Step, folder: Path, variables: Mapping[str, str], seconds: float) -> None:
        self.step, self._folder, self._began = step, folder, time.monotonic()
        self._limit, self._is_cut = min(step.seconds, seconds), seconds < step.seconds
        self._output = folder / f"now-{step.name}.txt"
        self._process: subprocess.Popen | None = None
        self._is_stopped = False
        with self._output.open("wb") as output:
            try:
                self._process = subprocess.Popen(
                    list(step.command), stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                    env={**os.environ, **variables, **step.variables}, start_new_session=True,
                )  # fmt: skip
            except OSError as error:
                output.write(f"{step.command[0]} can't be run: {error}\n".encode())

    def wait(self) -> Ending:
        """Wait for the end, or bring it about when the time is over; the output moves to the log.

        A step that was stopped before its own limit, as the campaign's time was over, had no time.
        """
        code, status = None, "failed"
        if self._process is not None:
            try:
                code = self._process.wait(max(self._began + self._limit - time.monotonic(), 0))
                status = "passed" if code == 0 else "failed" if code > 0 else "crashed"
            except subprocess.TimeoutExpired:
                status = "no time" if self._is_cut else "hung"
            finally:
                self.stop()
        return self._ended(status, code)

    def stop(self) -> None:
        """End the step's processes, also those that it left behind."""
        if self._process is None or self._is_stopped:
            return
        self._is_stopped = True  # its number may be another process's from now on
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _ended(self, status: Status, code: int | None) -> Ending:
        ending = Ending(self.step.name, status, code, round(time.monotonic() - self._began, 1))
        text = self._output.read_text(encoding="utf-8", errors="replace")
        with (self._folder / "log.txt").open("a", encoding="utf-8") as log:
            log.write(f"\n===== {ending.step}: {ending.status}, exit {ending.exit}, {ending.seconds} s\n{text}")
        self._output.unlink()
        return ending
