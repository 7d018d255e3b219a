"""Accuracy and forgetting of every width after every task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np

from slimkern.continual.metrics import Setting, average_accuracy, forgetting
from slimkern.experiments.optional import load_extra
from slimkern.experiments.plots import SETTINGS, STYLE, save_figure
from slimkern.experiments.runs import Group, ReportError
from slimkern.experiments.tables import Spread, Table
from slimkern.widths import same_width

METRICS = {"average accuracy": average_accuracy, "forgetting": forgetting}


def refuse_unknown(widths: Sequence[float], groups: Sequence[Group]) -> None:
    """Raises ReportError for a width that a group doesn't have."""
    for group in groups:
        for width in widths:
            if not any(same_width(width, own) for own in group.widths):
                listed = ", ".join(f"{own:g}" for own in group.widths)
                raise ReportError(f"width {width:g} is none of {group.label}, which has {listed}")


def long_table(groups: Sequence[Group], widths: Sequence[float]) -> Table:
    """One row a group, width, setting and task learned: average accuracy and forgetting, percent."""
    rows = [
        (group.label, len(group.runs), f"{width:g}", f"task-{setting}", after, *spreads)
        for group in groups
        for width in widths or group.widths
        for setting in SETTINGS
        for after, spreads in enumerate(
            zip(*(_spreads(group, metric, width, setting) for metric in METRICS), strict=True), start=1
        )
    ]
    headers = ("run", "n", "width", "setting", "after task", *METRICS)
    return Table("Average accuracy and forgetting of every width, percent", headers, tuple(rows))


def wide_table(groups: Sequence[Group], widths: Sequence[float], metric: str) -> Table:
    """One row a group and width, one column a task learned: one metric, task-agnostic, percent."""
    tasks = max((group.runs[0].finished_tasks for group in groups), default=0)
    rows = [
        (group.label, len(group.runs), f"{width:g}", *_padded(_spreads(group, metric, width), tasks))
        for group in groups
        for width in widths or group.widths
        if group.runs[0].finished_tasks
    ]
    headers = ("run", "n", "width", *(f"after {task + 1}" for task in range(tasks)))
    return Table(f"{metric.capitalize()} of every width, task-agnostic, percent", headers, tuple(rows))


def draw_widths(groups: Sequence[Group], widths: Sequence[float], path: Path) -> None:
    """Task-agnostic average accuracy after each task: a panel a group, a line a width, wider ones darker.

    Raises:
        ImportError: if matplotlib isn't installed.
        StorageError: if the file can't be written.
    """
    matplotlib = load_extra("matplotlib", extra="plot")
    across = min(len(groups), 3)
    down = -(-len(groups) // across)
    with matplotlib.rc_context(STYLE):
        figure = load_extra("matplotlib.figure", extra="plot").Figure(
            figsize=(4.4 * across, 3.3 * down), layout="constrained"
        )
        panels = figure.subplots(down, across, squeeze=False, sharey=True).flat
        for panel, group in zip(panels, groups, strict=False):
            _draw_panel(panel, group, widths or group.widths, matplotlib.colormaps["viridis_r"])
        for panel in list(figure.axes)[len(groups) :]:
            panel.set_axis_off()
        figure.axes[0].set_ylim(bottom=0)
        save_figure(figure, path)


def _draw_panel(panel: Any, group: Group, widths: Sequence[float], colours: Any) -> None:
    for width in widths:
        spreads = _spreads(group, "average accuracy", width)
        mean, std = (np.array([getattr(spread, name) for spread in spreads]) for name in ("mean", "std"))
        tasks, colour = np.arange(1, len(mean) + 1), colours(0.15 + 0.85 * width)
        panel.plot(tasks, mean, marker="o", color=colour, label=f"width {width:g}")
        if len(group.runs) > 1:
            panel.fill_between(tasks, mean - std, mean + std, color=colour, alpha=0.15, linewidth=0)
    panel.set_title(fill(f"{group.label} (n\u00a0=\u00a0{len(group.runs)})", 48), fontsize=9)
    panel.set_xlabel("tasks learned")
    panel.set_ylabel("average accuracy (%)")
    panel.xaxis.get_major_locator().set_params(integer=True)
    panel.legend(fontsize=8)


def _spreads(group: Group, metric: str, width: float, setting: Setting = "agnostic") -> list[Spread]:
    values = group.measure(lambda counts: METRICS[metric](counts, setting, width))
    return [Spread.of(column) for column in values.T]


def _padded(spreads: list[Spread], count: int) -> list[Spread]:
    return spreads + [Spread.of([])] * (count - len(spreads))
