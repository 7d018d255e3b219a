"""Jobs on the whole digits that take a second or two each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from slimkern.continual.config import TrainConfig
from slimkern.experiments.sweeps.job import Job


def small_job(folder: Path, **changes: Any) -> Job:
    """A job of two tasks with few images; skips the test where scikit-learn is missing."""
    pytest.importorskip("sklearn")
    fields = {"tasks": 2, "epochs": 2, "channels": 4, "learning_rate": 0.02, "validation": 0.9} | changes
    return Job(TrainConfig(**fields), folder)
