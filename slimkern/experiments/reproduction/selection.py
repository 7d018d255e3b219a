"""What a table or a figure of the ScrollNet paper shows, and which part of it is wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from slimkern.continual.config import ConfigError, MethodName, Protocol, TrainConfig
from slimkern.continual.metrics import Setting
from slimkern.continual.precision import PrecisionName
from slimkern.experiments.reproduction.published import published

TargetName = Literal["table1", "table2", "figure4", "figure5"]
SYSTEM = "ScrollNet"
VARIANTS = {1: "baseline", 2: "ScrollNet-2", 4: "ScrollNet-4"}
CLASSES = {"cifar100": 100, "tiny-imagenet": 200}
FULL = TrainConfig(data="cifar100", tasks=10)


@dataclass(frozen=True)
class Target:
    """A table or a figure of the paper: its data set, and whether tasks are told at test time."""

    name: TargetName
    dataset: Literal["cifar100", "tiny-imagenet"]
    settings: tuple[Setting, ...]

    @property
    def full(self) -> dict[str, int]:
        """What the paper's runs have that shortened ones have less of."""
        return {"epochs": FULL.epochs, "classes": CLASSES[self.dataset], "channels": FULL.channels}

    @property
    def curves(self) -> bool:
        """Whether it shows the accuracy after each task, not only after the last."""
        return self.name.startswith("figure")


TARGETS: dict[TargetName, Target] = {
    "table1": Target("table1", "cifar100", ("agnostic", "aware")),
    "table2": Target("table2", "tiny-imagenet", ("agnostic", "aware")),
    "figure4": Target("figure4", "cifar100", ("agnostic",)),
    "figure5": Target("figure5", "cifar100", ("aware",)),
}


@dataclass(frozen=True)
class Selection:
    """The part of a table that is wanted, and how its runs are shortened, if they are.

    Raises:
        ConfigError: a name or number that the paper doesn't have, or nothing selected.
    """

    methods: tuple[str, ...] = ()
    """Methods; by default all of the paper's."""
    splits: tuple[int, ...] = ()
    """Numbers of tasks that the paper splits the classes into: 5, 10, 20; by default all."""
    widths: tuple[int, ...] = tuple(VARIANTS)
    """1 for the baseline, 2 for ScrollNet-2, 4 for ScrollNet-4."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """A run each."""
    epochs: int | None = None
    """Shortens: fewer than the paper's 200 epochs a task."""
    classes: int | None = None
    """Shortens: only the first so many classes of each seed's class order."""
    tasks: int | None = None
    """Shortens: a number of tasks that the paper doesn't have, in place of --splits."""
    channels: int | None = None
    """Shortens: a network whose first stage has fewer than 64 channels."""
    protocol: Protocol = FULL.protocol
    """Where the paper and its released code differ, whom to follow: see `slimkern train --help`."""
    precision: PrecisionName = FULL.precision
    """What steps compute in; the report says so if it isn't fp32."""

    def __post_init__(self) -> None:
        _only("methods", self.methods, get_args(MethodName))
        _only("splits", self.splits, paper_splits())
        _only("widths", self.widths, list(VARIANTS))
        for name in ("widths", "seeds"):
            if not getattr(self, name):
                raise ConfigError(f"{name}: none were given; name at least one")
        for name in ("methods", "splits", "widths", "seeds"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ConfigError(f"{name}={getattr(self, name)} names one twice")
        if self.splits and self.tasks is not None:
            raise ConfigError(f"splits={self.splits} and tasks={self.tasks}: give only one of them")

    def all_methods(self) -> tuple[str, ...]:
        """Those wanted: by default the paper's, in its order."""
        return self.methods or tuple(paper_methods())

    def all_splits(self) -> tuple[int, ...]:
        """The numbers of tasks wanted."""
        return (self.tasks,) if self.tasks is not None else self.splits or tuple(paper_splits())

    def shortened(self, target: Target) -> dict[str, int]:
        """The fields of a configuration that shorten these runs.

        Raises:
            ConfigError: more epochs, classes or channels than the paper's runs have.
        """
        given = {name: getattr(self, name) for name in target.full if getattr(self, name) is not None}
        for name, value in given.items():
            if not 1 <= value <= target.full[name]:
                raise ConfigError(f"{name}={value} must lie in 1 to {target.full[name]}: runs can only be shortened")
        return {name: value for name, value in given.items() if value < target.full[name]}

    def variations(self) -> dict[str, str]:
        """The protocol and the precision, where they aren't those of the paper; such runs may be compared with it."""
        return {name: own for name in ("protocol", "precision") if (own := getattr(self, name)) != getattr(FULL, name)}

    def differences(self, target: Target) -> tuple[str, ...]:
        """In what these runs differ from the paper's, in words; nothing if in nothing."""
        words = [f"{value} of {target.full[name]} {name}" for name, value in self.shortened(target).items()]
        if self.tasks is not None and self.tasks not in paper_splits():
            words.append(f"{self.tasks} tasks, where the paper has {', '.join(map(str, paper_splits()))}")
        return tuple(words)


def paper_methods() -> list[str]:
    """The paper's methods, in its order."""
    return list(dict.fromkeys(row.method for row in published(SYSTEM)))


def paper_splits() -> list[int]:
    """The numbers of tasks that the paper splits the classes into."""
    return sorted({row.tasks for row in published(SYSTEM)})


def _only(name: str, given: Sequence[Any], allowed: Sequence[Any]) -> None:
    unknown = [str(value) for value in given if value not in allowed]
    if unknown:
        raise ConfigError(f"{name}: {', '.join(unknown)} unknown here; allowed: {', '.join(map(str, allowed))}")
