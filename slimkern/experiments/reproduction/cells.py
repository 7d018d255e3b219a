"""The cells of a table, and the runs behind them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from slimkern.continual.config import MethodName
from slimkern.continual.methods import config_for
from slimkern.continual.tasks import split_sizes
from slimkern.experiments.reproduction.published import Judged, Published, find, published
from slimkern.experiments.reproduction.selection import Selection
from slimkern.experiments.reproduction.targets import VARIANTS, Split, Target
from slimkern.experiments.runs import METHOD_NAMES
from slimkern.experiments.sweeps.job import Job


@dataclass(frozen=True, eq=False)
class Cell:
    """A cell of a table: one method at one number of widths on one split.

    Attributes:
        method: the method as papers write it.
        variant: as the paper calls the number of widths; empty for other systems than ScrollNet.
        split: of the classes.
        jobs: one a seed.
        published: what the paper has here, by how test images are judged, where it has something.
    """

    method: str
    variant: str
    split: Split
    jobs: tuple[Job, ...]
    published: dict[Judged, Published]

    @property
    def tasks(self) -> int:
        """Number of tasks."""
        return self.split.tasks


def cells(
    target: Target, selection: Selection, out: Path, root: Path | None, device: Literal["cpu", "cuda"]
) -> list[Cell]:
    """The cells wanted, in the order of the table.

    Args:
        target: the table or figure.
        selection: which part of it.
        out: where the run folders are. Tables and figures share the runs that they have in common.
        root: folder of the data sets.
        device: where to train.

    Raises:
        ConfigError, TaskError: a configuration that can't be run.
    """
    selection.check(target)
    shortened, variations = selection.shortened(target), selection.variations()
    for split in selection.all_splits(target):
        split_sizes(shortened.get("classes", target.full["classes"]), split.tasks, split.first_task_classes)
    out, root = out.resolve(), None if root is None else root.resolve()

    def cell(split: Split, method: str, width: int) -> Cell:
        exemplars = _exemplars(target, method)
        changes: dict[str, Any] = {
            "data": split.dataset, "tasks": split.tasks, "widths": (float(width),)
        }  # fmt: skip
        changes |= {"first_task_classes": split.first_task_classes, **target.changes}
        changes |= shortened | variations | ({"exemplars": exemplars} if exemplars else {})
        first = [] if split.first_task_classes is None else ["first", str(split.first_task_classes)]
        stem = "-".join([split.dataset, str(split.tasks), *first, method, "widths", str(width)])
        ending = "".join(f"-{name}-{value}" for name, value in (shortened | variations).items())
        jobs = tuple(
            Job(
                replace(config_for(cast(MethodName, method)), seed=seed, **changes),
                out / f"{stem}-seed-{seed}{ending}",
                root,
                device,
            )
            for seed in selection.all_seeds(target)
        )
        variant = VARIANTS[width] if len(target.widths) > 1 else ""
        known: dict[Judged, Published] = {}
        for judged in target.judged:
            names = (target.system, split.dataset, method, variant, judged, split.tasks, exemplars)
            row = find(*names, split.first_task_classes, target.metric)
            if row is not None:
                known[judged] = row
        return Cell(METHOD_NAMES.get(method, method), variant, split, jobs, known)

    return [
        cell(split, method, width)
        for split in selection.all_splits(target)
        for method in selection.all_methods(target)
        for width in selection.all_widths(target)
    ]


def _exemplars(target: Target, method: str) -> int:
    """How many the paper keeps for this method."""
    return next((row.exemplars for row in published(target.system) if row.method == method), 0)
