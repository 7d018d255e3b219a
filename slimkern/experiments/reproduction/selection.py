"""Which part of a table or a figure is wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from slimkern.continual.config import ConfigError, MethodName, Protocol
from slimkern.continual.precision import PrecisionName
from slimkern.experiments.reproduction.targets import FULL, VARIANTS, Split, Target


@dataclass(frozen=True)
class Selection:
    """The part of a table that is wanted, and how its runs are shortened, if they are.

    Raises:
        ConfigError: a name or number that the paper doesn't have, or nothing selected.
    """

    methods: tuple[str, ...] = ()
    """Methods; by default all of the paper's."""
    splits: tuple[int, ...] = ()
    """Numbers of tasks that the paper splits the classes into: for ScrollNet 5, 10, 20; by default all."""
    datasets: tuple[str, ...] = ()
    """Data sets; by default all of the table's."""
    widths: tuple[int, ...] = ()
    """1 for the baseline, 2 for ScrollNet-2, 4 for ScrollNet-4; by default all that the paper has."""
    seeds: tuple[int, ...] = ()
    """A run each; by default as many as the paper has, from 0 on."""
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
        _only("widths", self.widths, list(VARIANTS))
        for name in ("methods", "splits", "datasets", "widths", "seeds"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ConfigError(f"{name}={getattr(self, name)} names one twice")
        if self.splits and self.tasks is not None:
            raise ConfigError(f"splits={self.splits} and tasks={self.tasks}: give only one of them")

    def check(self, target: Target) -> None:
        """Refuse what the table doesn't have.

        Raises:
            ConfigError: a name or number that isn't there, or more epochs, classes or channels than its runs have.
        """
        _only("methods", self.methods, (*target.methods, *target.beside))
        _only("splits", self.splits, _numbers(target))
        _only("datasets", self.datasets, target.datasets)
        _only("widths", self.widths, target.widths)
        self.shortened(target)

    def all_methods(self, target: Target) -> tuple[str, ...]:
        """Those wanted: by default the paper's, in its order."""
        return self.methods or target.methods

    def all_splits(self, target: Target) -> tuple[Split, ...]:
        """The splits wanted."""
        datasets = self.datasets or target.datasets
        if self.tasks is not None and self.tasks not in _numbers(target):
            return tuple(Split(dataset, self.tasks) for dataset in datasets)
        wanted = self.splits if self.tasks is None else (self.tasks,)
        return tuple(s for s in target.splits if s.dataset in datasets and (not wanted or s.tasks in wanted))

    def all_widths(self, target: Target) -> tuple[int, ...]:
        """The numbers of widths wanted, ascending."""
        return tuple(sorted(self.widths)) or target.widths

    def all_seeds(self, target: Target) -> tuple[int, ...]:
        """The seeds wanted."""
        return self.seeds or target.seeds

    def shortened(self, target: Target) -> dict[str, int]:
        """The fields of a configuration that shorten these runs.

        Raises:
            ConfigError: more epochs, classes or channels than the paper's runs have, or any where they have none.
        """
        names = ("epochs", "classes", "channels")
        given = {name: own for name in names if (own := getattr(self, name)) is not None}
        for name, value in given.items():
            if name not in target.full:
                allowed = ", ".join(target.full)
                raise ConfigError(f"{name}={value}: runs of {target.name} can't be shortened so; allowed: {allowed}")
            if not 1 <= value <= target.full[name]:
                raise ConfigError(f"{name}={value} must lie in 1 to {target.full[name]}: runs can only be shortened")
        return {name: value for name, value in given.items() if value < target.full[name]}

    def variations(self) -> dict[str, str]:
        """The protocol and the precision, where they aren't those of the paper; such runs may be compared with it."""
        return {name: own for name in ("protocol", "precision") if (own := getattr(self, name)) != getattr(FULL, name)}

    def differences(self, target: Target) -> tuple[str, ...]:
        """In what these runs differ from the paper's, in words; nothing if in nothing."""
        words = [f"{value} of {target.full[name]} {name}" for name, value in self.shortened(target).items()]
        if self.tasks is not None and self.tasks not in _numbers(target):
            words.append(f"{self.tasks} tasks, where the paper has {', '.join(map(str, _numbers(target)))}")
        return tuple(words)


def _numbers(target: Target) -> list[int]:
    """The numbers of tasks that the paper splits the classes into."""
    return sorted({split.tasks for split in target.splits})


def _only(name: str, given: Sequence[Any], allowed: Sequence[Any]) -> None:
    unknown = [str(value) for value in given if value not in allowed]
    if unknown:
        raise ConfigError(f"{name}: {', '.join(unknown)} unknown here; allowed: {', '.join(map(str, allowed))}")
