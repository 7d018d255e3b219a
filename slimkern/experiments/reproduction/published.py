"""What papers report, from `published.csv`. Other systems' figures are further rows of that file."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal, cast

Judged = Literal["agnostic", "aware", "batches"]
"""How test images are judged: alone, alone with their task told, or in batches that all come from one task."""
SOURCES = {
    "ScrollNet": "arXiv 2308.16567",
    "AutoActivator": "ICML 2024, arXiv 2406.02428",
    "SCL-PNC": "arXiv 2512.21845, https://github.com/zhangchuangxin71-cyber/dynamic_ETF2",
}
"""Where each system's figures are published."""


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
        setting: how test images are judged.
        first_task_classes: classes of the first task where it is larger than the others, else None.
        tasks: into how many tasks the classes are split.
        metric: average accuracy after the last task, average incremental accuracy or backward transfer, in percent;
            nodes of all units, or seconds of a whole run.
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
    setting: Judged
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
    system: str,
    dataset: str,
    method: str,
    variant: str,
    setting: Judged,
    tasks: int,
    exemplars: int,
    first_task_classes: int | None = None,
    metric: str = "average accuracy",
) -> Published | None:
    """The first figure with these names; None if the paper has none."""
    wanted = (dataset, method, variant, setting, tasks, exemplars, first_task_classes, metric)
    for row in published(system):
        names = (
            row.dataset, row.method, row.variant, row.setting, row.tasks, row.exemplars, row.first_task_classes,
            row.metric,
        )  # fmt: skip
        if names == wanted:
            return row
    return None


def _parsed(row: dict[str, str]) -> Published:
    judged = cast(Judged, row["setting"])
    return Published(
        row["system"], row["table"], row["dataset"], row["method"], row["variant"], int(row["exemplars"]), judged,
        int(row["first_task_classes"]) if row["first_task_classes"] else None, int(row["tasks"]), row["metric"],
        float(row["mean"]), float(row["std"]) if row["std"] else math.nan, int(row["runs"]) if row["runs"] else None,
        row["remark"],
    )  # fmt: skip
