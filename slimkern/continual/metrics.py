"""Metrics of continual learning, each a pure function of the raw counts of correct answers.

With a[k, j] the accuracy on task j after learning task k, in percent:

    average accuracy      A_k   = mean of a[k, j] over j <= k
    average incremental   AIA   = mean of A_k over all k                        (Rebuffi et al. 2017, iCaRL)
    forgetting            F_k   = mean over j < k of max over l < k of a[l, j], minus a[k, j]
                                                                    (Chaudhry et al. 2018, Riemannian Walk)
    backward transfer     BWT_k = mean over j < k of a[k, j] - a[j, j]  (Lopez-Paz & Ranzato 2017, GEM, Eq. 3)

Every task weighs the same, however many test images it has. Forgetting may be negative: the present value is not among
those the maximum is taken over.

Example: three tasks of ten test images, the correct answers on each task seen, and the metrics that follow from them.

    after task 0:  5            A = 50
    after task 1:  8  6         A = 70    F = -30                 BWT = 30
    after task 2:  6  6  7      A = 63.3  F = (20 + 0) / 2 = 10   BWT = (10 + 0) / 2 = 5   AIA = 61.1
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Setting = Literal["aware", "agnostic"]
"""Whether the task of a test image is told (`aware`) or all classes seen so far compete (`agnostic`)."""


@dataclass(frozen=True, eq=False)
class Counts:
    """Correct answers of a run: everything its metrics are made of.

    Args:
        widths: ascending widths, the last one 1.0.
        totals: test images per task; its length is the number of tasks of the whole run.
        aware: int64 [after task, on task, width], correct answers when the task is known. Zero for tasks not yet seen.
        agnostic: the same, over all classes seen.

    Raises:
        ValueError: if shapes, types or values do not fit together.
    """

    widths: tuple[float, ...]
    totals: tuple[int, ...]
    aware: NDArray[np.int64]
    agnostic: NDArray[np.int64]

    def __post_init__(self) -> None:
        widths = tuple(float(width) for width in self.widths)
        if not widths or widths[-1] != 1.0 or widths[0] <= 0 or list(widths) != sorted(set(widths)):
            raise ValueError(f"widths are {widths}; they must be above 0, ascending, and end with 1.0")
        if not self.totals or any(not isinstance(total, int) or total <= 0 for total in self.totals):
            raise ValueError(f"totals are {self.totals}; each task needs a positive number of test images")
        object.__setattr__(self, "widths", widths)
        object.__setattr__(self, "totals", tuple(self.totals))
        object.__setattr__(self, "aware", self._checked("aware", self.aware))
        object.__setattr__(self, "agnostic", self._checked("agnostic", self.agnostic))
        if len(self.aware) != len(self.agnostic):
            raise ValueError(f"aware has {len(self.aware)} rows, agnostic {len(self.agnostic)}; they must be as many")

    def _checked(self, name: str, given: ArrayLike) -> NDArray[np.int64]:
        counts = _integers(name, given)
        tasks, widths = len(self.totals), len(self.widths)
        if counts.size == 0:
            counts = counts.reshape(0, tasks, widths)
        if counts.ndim != 3 or counts.shape[1:] != (tasks, widths) or len(counts) > tasks:
            raise ValueError(
                f"{name} has shape {counts.shape}; it must be [after task, on task, width], "
                f"at most {(tasks, tasks, widths)}"
            )
        allowed = np.tril(np.tile(self.totals, (tasks, 1)))[: len(counts), :, None]
        if (counts < 0).any() or (counts > allowed).any():
            after, on, width = (int(index) for index in np.argwhere((counts < 0) | (counts > allowed))[0])
            raise ValueError(
                f"{name}[{after}, {on}, {width}] is {counts[after, on, width]}; "
                f"after task {after} task {on} allows 0 to {allowed[after, on, 0]} correct answers"
            )
        counts.setflags(write=False)
        return counts

    @classmethod
    def empty(cls, widths: tuple[float, ...], totals: tuple[int, ...]) -> Counts:
        """Counts of a run that hasn't finished a task."""
        nothing = np.zeros((0, len(totals), len(widths)), dtype=np.int64)
        return cls(widths, totals, nothing, nothing)

    @property
    def finished_tasks(self) -> int:
        """Number of tasks learned and evaluated."""
        return len(self.aware)

    @property
    def complete(self) -> bool:
        """Whether every task has been learned and evaluated."""
        return self.finished_tasks == len(self.totals)

    def with_row(self, aware_row: ArrayLike, agnostic_row: ArrayLike) -> Counts:
        """These counts and those measured after one more task; rows are integers [seen task, width]."""
        if self.complete:
            raise ValueError(f"all {len(self.totals)} tasks are counted already; no row can be added")
        seen, widths = self.finished_tasks + 1, len(self.widths)

        def appended(name: str, counts: NDArray[np.int64], row: ArrayLike) -> NDArray[np.int64]:
            new = _integers(name, row)
            if new.shape != (seen, widths):
                raise ValueError(f"{name} has shape {new.shape}; after task {seen - 1} it must be {(seen, widths)}")
            return np.concatenate([counts, np.pad(new, ((0, len(self.totals) - seen), (0, 0)))[None]])

        return replace(
            self,
            aware=appended("aware_row", self.aware, aware_row),
            agnostic=appended("agnostic_row", self.agnostic, agnostic_row),
        )

    def to_json(self) -> dict[str, Any]:
        """The counts as lists and numbers; `from_json` gives them back."""
        return {
            "widths": list(self.widths),
            "totals": list(self.totals),
            "aware": self.aware.tolist(),
            "agnostic": self.agnostic.tolist(),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Counts:
        """Counts from the result of `to_json`; raises ValueError if keys or values aren't those of counts."""
        wanted = {"widths", "totals", "aware", "agnostic"}
        if not isinstance(data, dict) or set(data) != wanted:
            found = sorted(data) if isinstance(data, dict) else type(data).__name__
            raise ValueError(f"counts need the keys {sorted(wanted)}; found {found}")
        try:
            return cls(tuple(data["widths"]), tuple(data["totals"]), data["aware"], data["agnostic"])
        except TypeError as cause:
            raise ValueError(f"widths and totals must be lists of numbers: {cause}") from cause

    def __eq__(self, other: object) -> bool:
        return self.to_json() == other.to_json() if isinstance(other, Counts) else NotImplemented


def accuracy(counts: Counts, setting: Setting, width: float = 1.0) -> NDArray[np.float64]:
    """Accuracy in percent, float64 [after task, on task]; NaN where the task hasn't been seen yet.

    Raises:
        ValueError: if the setting or the width isn't one of the counts'.
    """
    if setting not in ("aware", "agnostic"):
        raise ValueError(f"setting is {setting!r}; it must be 'aware' or 'agnostic'")
    column = next((i for i, known in enumerate(counts.widths) if math.isclose(known, width)), None)
    if column is None:
        raise ValueError(f"width is {width}; these counts have {counts.widths}")
    correct = getattr(counts, setting)[:, :, column]
    seen = np.tri(*correct.shape, dtype=bool)
    return np.where(seen, 100.0 * correct / np.asarray(counts.totals), np.nan)


def average_accuracy(counts: Counts, setting: Setting, width: float = 1.0) -> NDArray[np.float64]:
    """Mean accuracy over the tasks seen, in percent, float64 [after task]; the number the ScrollNet paper reports."""
    return np.nanmean(accuracy(counts, setting, width), axis=1)


def average_incremental_accuracy(counts: Counts, setting: Setting, width: float = 1.0) -> float:
    """Mean of the average accuracy over all tasks learned so far, in percent; NaN before the first."""
    averages = average_accuracy(counts, setting, width)
    return float(averages.mean()) if len(averages) else math.nan


def forgetting(counts: Counts, setting: Setting, width: float = 1.0) -> NDArray[np.float64]:
    """Mean fall of earlier tasks from their best earlier accuracy, in points, float64 [after task]; first NaN."""
    reached = accuracy(counts, setting, width)
    best_before = np.roll(np.fmax.accumulate(reached, axis=0), 1, axis=0)
    return _mean_over_earlier_tasks(best_before - reached)


def backward_transfer(counts: Counts, setting: Setting, width: float = 1.0) -> NDArray[np.float64]:
    """Mean gain of earlier tasks since each was learned, in points, float64 [after task]; first NaN."""
    reached = accuracy(counts, setting, width)
    when_learned = np.diagonal(reached)
    return _mean_over_earlier_tasks(reached[:, : len(reached)] - when_learned)


def _mean_over_earlier_tasks(differences: NDArray[np.float64]) -> NDArray[np.float64]:
    """[after task, on task] to [after task]."""
    return np.array([row[:after].mean() if after else math.nan for after, row in enumerate(differences)])


def _integers(name: str, given: ArrayLike) -> NDArray[np.int64]:
    """A fresh int64 array, so that nobody else can change the counts."""
    try:
        numbers = np.asarray(given)
    except ValueError as cause:
        raise ValueError(f"{name} isn't a regular array of integers: {cause}") from cause
    if numbers.size and not np.issubdtype(numbers.dtype, np.integer):
        raise ValueError(f"{name} has dtype {numbers.dtype}; it must hold integers")
    return numbers.astype(np.int64)
