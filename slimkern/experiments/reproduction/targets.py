"""The tables and figures that can be redone: whose they are, and how their runs are trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from slimkern.continual.config import TrainConfig
from slimkern.experiments.reproduction.published import Judged, published

TargetName = Literal["table1", "table2", "figure4", "figure5", "autoactivator", "scl-pnc"]
VARIANTS = {1: "baseline", 2: "ScrollNet-2", 4: "ScrollNet-4"}
FULL = TrainConfig(data="cifar100", tasks=10)
BATCH = 100
"""AutoActivator's paper doesn't state its test batch; it feeds batches of one task's or class's images."""


@dataclass(frozen=True)
class Split:
    """How a data set is cut into tasks; its name is what a table's column says."""

    dataset: str
    tasks: int
    first_task_classes: int | None = None
    name: str = ""

    def __str__(self) -> str:
        return self.name or f"{self.tasks} tasks"


@dataclass(frozen=True)
class Target:
    """A table or a figure of a paper.

    Attributes:
        name: of the target.
        title: in words.
        system: whose paper; see `Published`.
        splits: the columns.
        judged: how test images are judged: alone without or with their task told, or in batches.
        full: what the paper's runs have that shortened ones have less of.
        metric: the figure that stands in a cell; see `Published`.
        by_image: test images weigh the same, rather than tasks.
        changes: fields of the configuration that differ from the ScrollNet paper's.
        widths: numbers of widths that there are runs for.
        seeds: as many as the paper has runs, or as we guess.
        beside: methods that the paper doesn't have but that may be asked for.
    """

    name: TargetName
    title: str
    system: str
    splits: tuple[Split, ...]
    judged: tuple[Judged, ...]
    full: dict[str, int]
    metric: str = "average accuracy"
    by_image: bool = False
    changes: dict[str, Any] = field(default_factory=dict)
    widths: tuple[int, ...] = tuple(VARIANTS)
    seeds: tuple[int, ...] = (0, 1, 2)
    beside: tuple[str, ...] = ("joint", "freezing")

    @property
    def curves(self) -> bool:
        """Whether it shows the accuracy after each task, not only after the last."""
        return self.name.startswith("figure")

    @property
    def methods(self) -> tuple[str, ...]:
        """The paper's own methods, in its order."""
        return tuple(dict.fromkeys(row.method for row in published(self.system)))

    @property
    def datasets(self) -> tuple[str, ...]:
        """Those of its splits."""
        return tuple(dict.fromkeys(split.dataset for split in self.splits))


def _scrollnet(name: TargetName, dataset: str, classes: int, judged: tuple[Judged, ...]) -> Target:
    title = f"{name[:-1].capitalize()} {name[-1]} of the ScrollNet paper"
    full = {"epochs": FULL.epochs, "classes": classes, "channels": FULL.channels}
    return Target(name, title, "ScrollNet", tuple(Split(dataset, tasks) for tasks in (5, 10, 20)), judged, full)


TARGETS: dict[TargetName, Target] = {
    "table1": _scrollnet("table1", "cifar100", 100, ("agnostic", "aware")),
    "table2": _scrollnet("table2", "tiny-imagenet", 200, ("agnostic", "aware")),
    "figure4": _scrollnet("figure4", "cifar100", 100, ("agnostic",)),
    "figure5": _scrollnet("figure5", "cifar100", 100, ("aware",)),
    "autoactivator": Target(
        "autoactivator",
        "Table 1 of the AutoActivator paper",
        "AutoActivator",
        (Split("mnist", 5, name="mnist"), Split("fashion-mnist", 5, name="fashion-mnist")),
        ("batches", "agnostic", "aware"),
        {"classes": 10},
        changes={"test_batch": BATCH, "homogeneous": "task"},
        widths=(1,),
        seeds=(0, 1, 2, 3, 4),
        beside=(),
    ),
    "scl-pnc": Target(
        "scl-pnc",
        "The README of SCL-PNC",
        "SCL-PNC",
        (
            Split("cifar100", 6, 50, "B50Inc10"),
            Split("cifar100", 11, 50, "B50Inc5"),
            Split("cifar100", 10, None, "B10Inc10"),
        ),
        ("agnostic",),
        {"epochs": 200, "classes": 100},
        metric="average incremental accuracy",
        by_image=True,
        changes={"class_order": "icarl", "epochs": 200, "validation": 0.0},
        widths=(1,),
        seeds=(0,),
        beside=(),
    ),
}
"""Methods that aren't there yet are refused by the configuration of their runs."""
