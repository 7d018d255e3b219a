"""Our figures beside published ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slimkern.continual.metrics import Counts, average_accuracy
from slimkern.experiments.optional import load_extra
from slimkern.experiments.reproduction.cells import Cell
from slimkern.experiments.reproduction.published import Judged, Published
from slimkern.experiments.reproduction.targets import Target
from slimkern.experiments.run_folder import CONFIG
from slimkern.experiments.runs import Run, read_runs
from slimkern.experiments.tables import Spread

RUNS_IF_UNSTATED = 3
"""The ScrollNet paper doesn't say how many runs its means are of; nearly all are multiples of a third of 0.1."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """What one cell has come to in one setting.

    Attributes:
        cell: the cell.
        setting: how test images are judged.
        curves: accuracy after each task in percent, float64 [finished runs, tasks]: the average over tasks, or over
            images where the target's images weigh the same.
        comparable: whether the runs were trained as the paper's were; else there is no difference and no test.
        incremental: whether the figure is the mean of the curve, not its end.
    """

    cell: Cell
    setting: Judged
    curves: NDArray[np.float64]
    comparable: bool
    incremental: bool = False

    @property
    def ours(self) -> Spread:
        """Over the finished runs: the accuracy after the last task, or the average incremental accuracy."""
        return Spread.of(self.curves.mean(1) if self.incremental else self.curves[:, -1])

    @property
    def runs(self) -> str:
        """How many runs are finished, and of how many if not all are."""
        finished, wanted = len(self.curves), len(self.cell.jobs)
        return str(wanted) if finished == wanted else f"{finished} of {wanted}"

    @property
    def published(self) -> Published | None:
        """What the paper has here."""
        return self.cell.published.get(self.setting)

    @property
    def difference(self) -> float:
        """Ours minus the published mean, in points; NaN where they can't be compared."""
        return self.ours.mean - self.published.mean if self.comparable and self.published else math.nan

    @property
    def test(self) -> WelchTest:
        """Whether the difference may be chance; see `WelchTest.of`."""
        paper = self.published
        if not self.comparable or paper is None:
            return WelchTest(math.nan, math.nan)
        return WelchTest.of(self.ours, len(self.curves), Spread(paper.mean, paper.std), paper.runs or RUNS_IF_UNSTATED)


@dataclass(frozen=True)
class WelchTest:
    """A test of two means that doesn't take their deviations to be equal (Welch 1947).

        z = (m1 - m2) / sqrt(s1^2 / n1 + s2^2 / n2)

    Attributes:
        z: the difference in units of its standard error; NaN if either mean is of a single run.
        p: how likely a difference at least this large is by chance, from Student's t with Welch's degrees of freedom:
            with three runs a side the normal distribution would find too many differences.
    """

    z: float
    p: float

    @classmethod
    def of(cls, one: Spread, runs: int, other: Spread, other_runs: int) -> WelchTest:
        """Compares two means over so many runs."""
        if runs < 2 or other_runs < 2 or not one.std + other.std > 0:
            return cls(math.nan, math.nan)
        parts = one.std**2 / runs, other.std**2 / other_runs
        z = (one.mean - other.mean) / math.sqrt(sum(parts))
        freedom = sum(parts) ** 2 / (parts[0] ** 2 / (runs - 1) + parts[1] ** 2 / (other_runs - 1))
        special = load_extra("scipy.special", extra="train")
        return cls(z, float(2 * special.stdtr(freedom, -abs(z))))


def compare(cells: Sequence[Cell], target: Target, comparable: bool) -> list[Comparison]:
    """Reads the run folders; a comparison for each cell and way of judging.

    Raises:
        RunFolderError: a folder is damaged or of another format version.
    """
    incremental = target.metric == "average incremental accuracy"
    return [
        Comparison(cell, judged, _curves(cell, runs, judged, target.by_image), comparable, incremental)
        for cell in cells
        for runs in [_finished(cell)]
        for judged in target.judged
    ]


def _finished(cell: Cell) -> list[Run]:
    return [run for run in read_runs(job.folder for job in cell.jobs if (job.folder / CONFIG).exists()) if run.complete]


def _curves(cell: Cell, runs: Sequence[Run], judged: Judged, by_image: bool) -> NDArray[np.float64]:
    counts = [run.in_batches if judged == "batches" else run.counts for run in runs]
    curves = [_curve(own, judged, by_image) for own in counts if own is not None]
    return np.array(curves).reshape(-1, cell.tasks)


def _curve(counts: Counts, judged: Judged, by_image: bool) -> NDArray[np.float64]:
    setting = "aware" if judged == "aware" else "agnostic"
    if not by_image:
        return average_accuracy(counts, setting)
    correct = getattr(counts, setting)[:, :, -1].sum(1)
    return 100 * correct / np.cumsum(counts.totals)[: len(correct)]
