"""The cells of a table, and the runs behind them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from slimkern.continual.metrics import Setting
from slimkern.continual.tasks import split_sizes
from slimkern.experiments.reproduction.published import Published, find, published
from slimkern.experiments.reproduction.selection import FULL, SYSTEM, VARIANTS, Selection, Target
from slimkern.experiments.runs import METHOD_NAMES
from slimkern.experiments.sweeps.job import Job


@dataclass(frozen=True, eq=False)
class Cell:
    """A cell of a table: one method at one number of widths on one split.

    Attributes:
        method: the method as papers write it.
        variant: as the paper calls the number of widths.
        tasks: number of tasks.
        jobs: one a seed.
        published: what the paper has here, by setting, where it has something.
    """

    method: str
    variant: str
    tasks: int
    jobs: tuple[Job, ...]
    published: dict[Setting, Published]


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
    shortened, variations = selection.shortened(target), selection.variations()
    for tasks in selection.all_splits():
        split_sizes(shortened.get("classes", target.full["classes"]), tasks)
    out, root = out.resolve(), None if root is None else root.resolve()

    def cell(tasks: int, method: str, width: int) -> Cell:
        exemplars = _exemplars(method)
        changes: dict[str, Any] = {"data": target.dataset, "tasks": tasks, "method": method, "widths": (float(width),)}
        changes |= shortened | variations | ({"exemplars": exemplars} if exemplars else {})
        stem = "-".join([target.dataset, str(tasks), method, "widths", str(width)])
        ending = "".join(f"-{name}-{value}" for name, value in (shortened | variations).items())
        jobs = tuple(
            Job(replace(FULL, seed=seed, **changes), out / f"{stem}-seed-{seed}{ending}", root, device)
            for seed in selection.seeds
        )
        variant = VARIANTS[width]
        known: dict[Setting, Published] = {}
        for setting in target.settings:
            row = find(SYSTEM, target.dataset, method, variant, setting, tasks, exemplars)
            if row is not None:
                known[setting] = row
        return Cell(METHOD_NAMES.get(method, method), variant, tasks, jobs, known)

    return [
        cell(tasks, method, width)
        for tasks in selection.all_splits()
        for method in selection.all_methods()
        for width in sorted(selection.widths)
    ]


def _exemplars(method: str) -> int:
    """How many the paper keeps for this method."""
    return next((row.exemplars for row in published(SYSTEM) if row.method == method), 0)
