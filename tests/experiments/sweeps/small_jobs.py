"""Jobs on the whole digits that take a second or two each."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slimkern.continual.config import TrainConfig
from slimkern.experiments.run_folder import RunFolder
from slimkern.experiments.sweeps.job import Job


def small_job(folder: Path, **changes: Any) -> Job:
    """A job of two tasks with few images; skips the test where scikit-learn is missing."""
    pytest.importorskip("sklearn")
    fields = {"tasks": 2, "epochs": 2, "channels": 4, "learning_rate": 0.02, "validation": 0.9} | changes
    return Job(TrainConfig(**fields), folder)


def starts(job: Job) -> list[tuple[int, int]]:
    """The task and epoch that each training of a job began with."""
    events = RunFolder.read(job.folder).events()
    return [(event["task"], event["epoch"]) for event in events if event["kind"] == "started"]


def until(condition: Callable[[], bool], otherwise: str, seconds: float = 300.0) -> None:
    """Waits for the condition, but not for ever."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.02)
