"""What papers report, from `published.csv`. Other systems' figures are further rows of that file."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from slimkern.continual.metrics import Setting


@dataclass(frozen=True)
class Published:
    """A figure of a paper.

    Attributes:
        system: whose figure it is: ScrollNet, AutoActivator or SCL-PNC.
        table: where in the paper.
        dataset: name of the data set, as in `--data`.
        method: name of the method, as in `--method`.
        variant: baseline, ScrollNet-2 or ScrollNet-4; empty for other systems.
        exemplars: in total, 0 for methods without.
        setting: whether the task of a test image is told.
        first_task_classes: classes of the first task where it is larger than the others, else None.
        tasks: into how many tasks the classes are split.
        metric: average accuracy after the last task, or average incremental accuracy, in percent.
        mean, std: over the runs; std is NaN where none is given.
        runs: how many, None where the paper doesn't say.
        remark: what keeps the figure from being compared as it is.
    """

    system: str
    table: str
    dataset: str
    method: str
    variant: str
    exemplars: int
    setting: Setting
    first_task_classes: int | None
    tasks: int
    metric: str
    mean: float
    std: float
    runs: int | None
    remark: str


@cache
def published(system: str) -> tuple[Published, ...]:
    """All figures of a system, in the order of the file."""
    text = files("slimkern.experiments.reproduction").joinpath("published.csv").read_text(encoding="utf-8")
    return tuple(_parsed(row) for row in csv.DictReader(text.splitlines()) if row["system"] == system)


def find(
    system: str, dataset: str, method: str, variant: str, setting: Setting, tasks: int, exemplars: int
) -> Published | None:
    """The figure with these names, with tasks of equal size; None if the paper has none."""
    wanted = (dataset, method, variant, setting, tasks, exemplars, None)
    for row in published(system):
        names = (row.dataset, row.method, row.variant, row.setting, row.tasks, row.exemplars, row.first_task_classes)
        if names == wanted:
            return row
    return None


def _parsed(row: dict[str, str]) -> Published:
    setting: Setting = "aware" if row["setting"] == "aware" else "agnostic"
    return Published(
        row["system"], row["table"], row["dataset"], row["method"], row["variant"], int(row["exemplars"]), setting,
        int(row["first_task_classes"]) if row["first_task_classes"] else None, int(row["tasks"]), row["metric"],
        float(row["mean"]), float(row["std"]) if row["std"] else math.nan, int(row["runs"]) if row["runs"] else None,
        row["remark"],
    )  # fmt: skip
