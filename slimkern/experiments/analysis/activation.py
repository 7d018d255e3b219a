"""AutoActivator's accuracy against the size and kind of its test batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np

from slimkern.continual.metrics import Counts, average_accuracy, average_incremental_accuracy, backward_transfer
from slimkern.experiments.analysis.movement import Events, by_task
from slimkern.experiments.batch_answers import KINDS, batch_counts, protocol
from slimkern.experiments.optional import load_extra
from slimkern.experiments.plots import STYLE, save_figure
from slimkern.experiments.runs import Group
from slimkern.experiments.tables import Spread, Table

COLOURS = {"task": "#0072B2", "class": "#E69F00", "none": "#7F7F7F"}


def last_average(counts: Counts) -> float:
    """Average accuracy after the last task learned."""
    return float(average_accuracy(counts, "agnostic")[-1])


def _incremental(counts: Counts) -> float:
    return average_incremental_accuracy(counts, "agnostic")


def _transfer(counts: Counts) -> float:
    return float(backward_transfer(counts, "agnostic")[-1])


@dataclass(frozen=True)
class Activation:
    """What a group answers to batches.

    Attributes:
        group: the runs.
        sizes: of the test batches.
        counts: those of each run, by kind and size of batch.
        nodes: of all units of each run.
    """

    group: Group
    sizes: tuple[int, ...]
    counts: dict[tuple[str, int], list[Counts]]
    nodes: tuple[int, ...]

    @classmethod
    def of(cls, group: Group, events: Sequence[Events]) -> Activation | None:
        """From the events of the group's runs; None if they aren't AutoActivator's."""
        told = [by_task(own, "activated") for own in events]
        if not all(told):
            return None
        sizes = tuple(sorted(map(int, told[0][0]["correct"]["none"])))
        counts = {
            (kind, size): [
                batch_counts(run.counts, own, kind, size)
                for run, own in zip(group.runs, events, strict=True)
                if run.counts
            ]
            for kind in KINDS
            for size in sizes
        }
        nodes = tuple(sum(unit["nodes"] for unit in by_task(own, "recruited").values()) for own in events)
        return cls(group, sizes, counts, nodes)

    def at(self, kind: str, size: int, metric: Callable[[Counts], float] = last_average) -> Spread:
        """Over the runs, for one kind and size of batch: by default the average accuracy after the last task."""
        return Spread.of([metric(counts) for counts in self.counts[kind, size]])


def activation_table(activations: Sequence[Activation]) -> Table:
    """One row a group: metrics under its own test protocol, and beside them image by image and with the task known."""
    rows = []
    for own in activations:
        config = own.group.runs[0].config
        size, kind = config["test_batch"], config["homogeneous"]
        aware = Spread.of(own.group.measure(lambda counts: average_accuracy(counts, "aware")[-1]))
        named = protocol(config)
        under = [own.at(kind, size, metric) for metric in (last_average, _incremental, _transfer)]
        single = own.at("none", 1)
        words = f"batches {named}" if named else "image by image"
        rows.append((own.group.label, len(own.nodes), words, *under, single, aware, Spread.of(own.nodes)))
    headers = (
        "run", "n", "test protocol", "accuracy", "incremental", "transfer", "image by image", "task-aware", "nodes",
    )  # fmt: skip
    return Table("AutoActivator: average accuracy after the last task learned, percent", headers, tuple(rows))


def batch_table(activations: Sequence[Activation]) -> Table:
    """One row a group and kind of batch, one column a size."""
    sizes = sorted({size for own in activations for size in own.sizes})
    rows = [
        (own.group.label, len(own.nodes), words, *(own.at(kind, s) if s in own.sizes else Spread.of([]) for s in sizes))
        for own in activations
        for kind, words in KINDS.items()
    ]
    headers = ("run", "n", "test batches", *(f"of {size}" for size in sizes))
    return Table("AutoActivator: average accuracy against the test batch, percent", headers, tuple(rows))


def draw_activation(activations: Sequence[Activation], path: Path) -> None:
    """Accuracy against the size of the test batch, one line a kind of batch, one panel a group.

    Raises:
        ImportError: if matplotlib isn't installed.
        StorageError: if the file can't be written.
    """
    matplotlib = load_extra("matplotlib", extra="plot")
    with matplotlib.rc_context(STYLE):
        figure = load_extra("matplotlib.figure", extra="plot").Figure(
            figsize=(6.4 * len(activations), 3.8), layout="constrained"
        )
        panels = figure.subplots(1, len(activations), squeeze=False, sharey=True).flat
        for panel, own in zip(panels, activations, strict=True):
            _draw_panel(panel, own)
        figure.axes[0].set_ylabel("average accuracy (%)")
        figure.axes[0].set_ylim(0, 102)
        lines, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(lines, labels, loc="outside right upper")
        save_figure(figure, path)


def _draw_panel(panel: Any, own: Activation) -> None:
    aware = own.group.measure(lambda counts: average_accuracy(counts, "aware")[-1]).mean()
    panel.axhline(aware, color="#009E73", linestyle=(0, (4, 2)), linewidth=1.2, label="task known")
    for kind, words in KINDS.items():
        spreads = [own.at(kind, size) for size in own.sizes]
        mean = np.array([spread.mean for spread in spreads])
        panel.plot(own.sizes, mean, marker="o", color=COLOURS[kind], label=words)
        if len(own.nodes) > 1:
            std = np.array([spread.std for spread in spreads])
            panel.fill_between(own.sizes, mean - std, mean + std, color=COLOURS[kind], alpha=0.18, linewidth=0)
    panel.set_xscale("log")
    panel.set_xticks(own.sizes, [str(size) for size in own.sizes], fontsize=8)
    panel.minorticks_off()
    panel.set_xlabel("images in a test batch")
    title = f"{own.group.label}, {own.group.runs[0].config['data']} (n\u00a0=\u00a0{len(own.nodes)})"
    panel.set_title(fill(title, 60), fontsize=9)
