"""Runs as reports see them: read from folders, grouped over seeds, and named by what tells them apart."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimkern.continual.metrics import Counts
from slimkern.experiments.batch_answers import batch_counts, protocol
from slimkern.experiments.run_folder import RunFolder

METHOD_NAMES = {
    "ft": "FT",
    "finetuning": "FT",
    "lwf": "LwF",
    "ewc": "EWC",
    "mas": "MAS",
    "icarl": "iCaRL",
    "bic": "BiC",
    "lucir": "LUCIR",
    "joint": "Joint",
    "freezing": "Freezing",
    "autoactivator": "AutoActivator",
    "scl-pnc": "SCL-PNC",
}
SCROLLING = {"scroll", "scroll_step"}
UNITS = {"nonlinearity", "features", "test_batch", "homogeneous"}
BRANCHES = {"expand", "best_on_test"}
TRAINING = {
    "augmentation", "model", "channels", "epochs", "batch_size", "learning_rate", "momentum", "weight_decay",
    "decay_at", "decay_by", "first_task_weight_decay", "first_task_decay_at", "clip", "search", "protocol",
    "exemplars", "exemplars_per_class", "selection",
}  # fmt: skip
"""Fields of the configuration that mean nothing to networks of one width, to networks, to all but SCL-PNC, and to
AutoActivator."""


class ReportError(ValueError):
    """These runs can't be reported together; the message says why."""


@dataclass(frozen=True, eq=False)
class Run:
    """One run.

    Attributes:
        name: the name of its folder.
        config: its resolved configuration.
        counts: its counts so far; None before the first task is finished.
        in_batches: the same with task-agnostic answers to batches of test images, for a run of AutoActivator's that
            asks for batches.
    """

    name: str
    config: dict[str, Any]
    counts: Counts | None
    in_batches: Counts | None = None

    @property
    def finished_tasks(self) -> int:
        """Number of tasks learned and evaluated."""
        return self.counts.finished_tasks if self.counts else 0

    @property
    def complete(self) -> bool:
        """Whether every task has been learned and evaluated."""
        return self.counts is not None and self.counts.complete


@dataclass(frozen=True, eq=False)
class Group:
    """Runs that differ in nothing but the seed and have come equally far.

    Attributes:
        label: what tells the group from the others of a report.
        method: the method's name as papers write it.
        widths: ascending widths, the last one 1.0.
        runs: at least one.
    """

    label: str
    method: str
    widths: tuple[float, ...]
    runs: tuple[Run, ...]

    @property
    def status(self) -> str:
        """The number of tasks, or for an unfinished run how many of them it has done."""
        run = self.runs[0]
        total = len(run.counts.totals) if run.counts else run.config.get("tasks", "?")
        return str(total) if run.complete else f"{run.finished_tasks} of {total}, unfinished"

    def measure(self, metric: Callable[[Counts], Any]) -> NDArray[np.float64]:
        """The metric of every run, stacked along a new first axis; empty before the first task is finished."""
        return np.array([metric(run.counts) for run in self.runs if run.counts and run.finished_tasks])

    def measure_in_batches(self, metric: Callable[[Counts], Any]) -> NDArray[np.float64]:
        """The same of answers to batches; empty for runs whose test images are judged alone."""
        return np.array([metric(run.in_batches) for run in self.runs if run.in_batches and run.finished_tasks])


def read_runs(folders: Iterable[Path]) -> list[Run]:
    """Reads the runs of these folders.

    Raises:
        RunFolderError: if one of them isn't a run folder or is damaged.
    """
    return [_read(RunFolder.read(folder)) for folder in folders]


def group_by_seed(runs: Sequence[Run]) -> list[Group]:
    """Groups runs that differ in nothing but the seed, in the order they are first met.

    Raises:
        ReportError: if two runs have the same configuration, seed included: one result counted twice would shrink the
            deviation over seeds.
    """
    members: defaultdict[str, list[Run]] = defaultdict(list)
    for run in runs:
        apart = {key: value for key, value in run.config.items() if key != "seed"}
        members[json.dumps([apart, run.finished_tasks], sort_keys=True)].append(run)
    for alike in members.values():
        _refuse_equal_seeds(alike)
    told = _keys_that_tell_apart([alike[0].config for alike in members.values()])
    return [_group(tuple(alike), told) for alike in members.values()]


def _read(folder: RunFolder) -> Run:
    config, counts = folder.config, folder.counts()
    in_batches = None
    if counts is not None and protocol(config) is not None:
        in_batches = batch_counts(counts, folder.events(), config["homogeneous"], config["test_batch"])
    return Run(folder.path.resolve().name, config, counts, in_batches)


def _group(runs: tuple[Run, ...], told: Sequence[str]) -> Group:
    config = runs[0].config
    method, widths = _method(config), _widths(config)
    details = _details(config)
    network = [] if len(widths) == 1 else [_network(widths)]
    rest = [f"{key.rpartition('.')[2].replace('_', ' ')} {details[key]}" for key in told if key in details]
    return Group(" · ".join([method, *network, *rest]), method, widths, runs)


def _method(config: dict[str, Any]) -> str:
    method = str(config.get("method", "?"))
    return METHOD_NAMES.get(method.lower(), method)


def _widths(config: dict[str, Any]) -> tuple[float, ...]:
    return tuple(config.get("widths", (1.0,)))


def _network(widths: tuple[float, ...]) -> str:
    even = np.allclose(widths, np.arange(1, len(widths) + 1) / len(widths))
    return f"ScrollNet-{len(widths)}" if even else f"ScrollNet {'/'.join(f'{width:g}' for width in widths)}"


def _details(config: dict[str, Any]) -> dict[str, Any]:
    """The flat configuration without what a label says already and what means nothing for this run."""
    silent = {"method", "widths", "seed", "options"} | (SCROLLING if len(_widths(config)) == 1 else set())
    silent |= TRAINING if config.get("method") == "autoactivator" else UNITS
    silent |= set() if config.get("method") == "scl-pnc" else BRANCHES
    options = config.get("options") or {}
    # Options belong to their method: having none of another method's is no difference.
    own = {f"{_method(config)}.{key}": value for key, value in options.items()}
    return {key: value for key, value in config.items() if key not in silent} | own


def _keys_that_tell_apart(configs: Sequence[dict[str, Any]]) -> list[str]:
    values: dict[str, set[str]] = defaultdict(set)
    for config in configs:
        for key, value in _details(config).items():
            values[key].add(json.dumps(value, sort_keys=True))
    return [key for key, found in values.items() if len(found) > 1]


def _refuse_equal_seeds(runs: Sequence[Run]) -> None:
    first: dict[Any, Run] = {}
    for run in runs:
        seed = run.config.get("seed")
        twin = first.setdefault(seed, run)
        if twin is not run:
            raise ReportError(f"{twin.name} and {run.name} have one configuration and seed {seed}; report only one")
