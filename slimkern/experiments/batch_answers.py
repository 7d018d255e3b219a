"""What AutoActivator answers to batches of test images, as counts that every metric can be made of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from slimkern.continual.metrics import Counts

KINDS = {"task": "all of one task", "class": "all of one class", "none": "mixed"}
"""What the images of a test batch have in common, in words."""


def protocol(config: dict[str, Any]) -> str | None:
    """How a run was to be tested, in words; None for one whose test images are judged alone."""
    size = config.get("test_batch", 1)
    return f"of {size}, {KINDS[config['homogeneous']]}" if size > 1 else None


def batch_counts(counts: Counts, events: Iterable[dict[str, Any]], kind: str, size: int) -> Counts:
    """The counts of a run, its task-agnostic answers replaced by those to batches of this kind and size.

    Args:
        counts: those of single images.
        events: of the run; `activated` tells what batches were answered after each task.
        kind: task, class or none.
        size: images a batch.

    Raises:
        KeyError: no batch of this kind and size was tried after some task.
    """
    rows = np.zeros_like(counts.agnostic)
    told = {event["task"]: event["correct"][kind] for event in events if event["kind"] == "activated"}
    for task in range(counts.finished_tasks):
        rows[task, : task + 1, 0] = told[task][str(size)]
    return replace(counts, agnostic=rows)
