"""Run folders as if they had been trained."""

from __future__ import annotations

import numpy as np

from slimkern.continual.metrics import Counts
from slimkern.experiments.run import resolved
from slimkern.experiments.run_folder import RunFolder
from slimkern.experiments.sweeps.job import Job

IMAGES = 1000


def pretend(job: Job, accuracy: float, tasks: int | None = None, in_batches: float | None = None) -> None:
    """Fills the job's folder with so many tasks (by default all) of this accuracy in percent, ten points more aware."""
    events = []
    config = job.config
    widths = config.all_widths().fractions
    counts = Counts.empty(widths, (IMAGES,) * config.tasks)
    for seen in range(1, (config.tasks if tasks is None else tasks) + 1):
        right = np.full((seen, len(widths)), round(IMAGES * accuracy / 100))
        counts = counts.with_row(right + IMAGES // 10, right)
        if in_batches is not None:
            answers = {str(config.test_batch): [round(IMAGES * in_batches / 100)] * seen}
            events.append({"task": seen - 1, "correct": {config.homogeneous: answers}})
    with RunFolder.open(job.folder, resolved(config, "crop-resize")) as folder:
        folder.save_counts(counts)
        for event in events:
            folder.append_event("activated", **event)
