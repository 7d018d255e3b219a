"""AutoActivator's accuracy against the size and kind of its test batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimkern.continual.metrics import average_accuracy
from slimkern.experiments.analysis.movement import Events, by_task
from slimkern.experiments.optional import load_extra
from slimkern.experiments.plots import STYLE, save_figure
from slimkern.experiments.runs import Group
from slimkern.experiments.tables import Spread, Table

KINDS = {"task": "all of one task", "class": "all of one class", "none": "mixed"}
COLOURS = {"task": "#0072B2", "class": "#E69F00", "none": "#7F7F7F"}


@dataclass(frozen=True)
class Activation:
    """What a group's last finished task left.

    Attributes:
        group: the runs.
        sizes: of the test batches.
        accuracies: by kind of batch, average over tasks in percent, float64 [runs, sizes].
        nodes: of all units of each run.
    """

    group: Group
    sizes: tuple[int, ...]
    accuracies: dict[str, NDArray[np.float64]]
    nodes: tuple[int, ...]

    @classmethod
    def of(cls, group: Group, events: Sequence[Events]) -> Activation | None:
        """From the events of the group's runs; None if they aren't AutoActivator's."""
        told = [by_task(own, "activated") for own in events]
        if not all(told):
            return None
        last = [own[max(own)] for own in told]
        sizes = tuple(sorted(map(int, last[0]["correct"]["none"])))
        accuracies = {kind: np.array([[_average(own, kind, size) for size in sizes] for own in last]) for kind in KINDS}
        nodes = tuple(sum(unit["nodes"] for unit in by_task(own, "recruited").values()) for own in events)
        return cls(group, sizes, accuracies, nodes)

    def at(self, kind: str, size: int) -> Spread:
        """Over the runs, for one kind and size of batch."""
        return Spread.of(self.accuracies[kind][:, self.sizes.index(size)])


def activation_table(activations: Sequence[Activation]) -> Table:
    """One row a group: accuracy under its own test protocol, and beside it image by image and with the task known."""
    rows = []
    for own in activations:
        config = own.group.runs[0].config
        size, kind = config["test_batch"], config["homogeneous"]
        aware = Spread.of(own.group.measure(lambda counts: average_accuracy(counts, "aware")[-1]))
        protocol = f"batches of {size}, {KINDS[kind]}" if size > 1 else "image by image"
        nodes = Spread.of(own.nodes)
        rows.append((own.group.label, len(own.nodes), protocol, own.at(kind, size), own.at("none", 1), aware, nodes))
    headers = ("run", "n", "test protocol", "accuracy", "image by image", "task-aware", "nodes")
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
        mean = own.accuracies[kind].mean(0)
        panel.plot(own.sizes, mean, marker="o", color=COLOURS[kind], label=words)
        if len(own.nodes) > 1:
            std = own.accuracies[kind].std(0, ddof=1)
            panel.fill_between(own.sizes, mean - std, mean + std, color=COLOURS[kind], alpha=0.18, linewidth=0)
    panel.set_xscale("log")
    panel.set_xticks(own.sizes, [str(size) for size in own.sizes], fontsize=8)
    panel.minorticks_off()
    panel.set_xlabel("images in a test batch")
    title = f"{own.group.label}, {own.group.runs[0].config['data']} (n\u00a0=\u00a0{len(own.nodes)})"
    panel.set_title(fill(title, 60), fontsize=9)


def _average(event: dict[str, Any], kind: str, size: int) -> float:
    correct = event["correct"][kind][str(size)]
    return float(np.mean([100 * own / total for own, total in zip(correct, event["images"], strict=True)]))
