"""Figures of runs. Needs matplotlib, from the extra slimkern[plot]; no display."""

from __future__ import annotations

import io
import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np

from slimkern.continual.metrics import Setting, accuracy, average_accuracy
from slimkern.experiments.atomic import write_bytes
from slimkern.experiments.optional import load_extra
from slimkern.experiments.runs import Group, Run, group_by_seed

STYLE = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.labelcolor": "#333333",
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "xtick.color": "#666666",
    "ytick.color": "#666666",
    "xtick.labelcolor": "#333333",
    "ytick.labelcolor": "#333333",
    "legend.frameon": False,
    "figure.constrained_layout.h_pad": 0.1,
    "lines.linewidth": 1.8,
    "lines.markersize": 4,
    "savefig.dpi": 160,
    "savefig.bbox": "tight",
}
# Okabe & Ito's colours for all kinds of colour vision, without their yellow, which is too faint for a line.
METHOD_COLOURS = {
    "FT": "#000000",
    "LwF": "#E69F00",
    "EWC": "#0072B2",
    "MAS": "#56B4E9",
    "iCaRL": "#D55E00",
    "BiC": "#009E73",
    "LUCIR": "#CC79A7",
    "Joint": "#44407F",
    "Freezing": "#9A8A5C",
}
OTHER_COLOUR = "#7F7F7F"
WIDTH_DASHES = {1: (0, (4, 2)), 2: (0, (1, 1.2)), 4: "solid"}
OTHER_DASHES = (0, (5, 1.5, 1, 1.5))
MARKERS = "osD^vPX"
SETTINGS: tuple[Setting, ...] = ("agnostic", "aware")


def draw_curves(runs: Sequence[Run], path: Path) -> None:
    """Average accuracy after each task, task-agnostic and task-aware side by side, one line a run.

    Runs that differ only by seed become one line, with a band of one standard deviation to either side. The method
    gives the colour and the number of widths the dashes.

    Args:
        runs: at least one with a finished task.
        path: the file; its ending (png, pdf, svg) says the format.

    Raises:
        ImportError: if matplotlib isn't installed.
        ValueError: if no run has finished a task.
        StorageError: if the file can't be written.
    """
    matplotlib = load_extra("matplotlib", extra="plot")
    groups = _with_results(runs)
    with matplotlib.rc_context(STYLE):
        figure = load_extra("matplotlib.figure", extra="plot").Figure(figsize=(10.8, 4.0), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True, sharex=True)
        for panel, setting in zip(axes, SETTINGS, strict=True):
            for group, look in zip(groups, _looks(groups), strict=True):
                _draw_curve(panel, group, setting, look)
            panel.set_title(f"Task-{setting}")
            panel.set_xlabel("tasks learned")
            panel.xaxis.get_major_locator().set_params(integer=True)
        # Only now: a limit set earlier would freeze the shared axis.
        axes[0].set_ylim(bottom=0)
        axes[0].set_ylabel("average accuracy (%)")
        lines, labels = axes[0].get_legend_handles_labels()
        figure.legend(lines, labels, loc="outside right upper", handlelength=3.2)
        save_figure(figure, path)


def draw_matrix(runs: Sequence[Run], path: Path, setting: Setting = "agnostic") -> None:
    """Accuracy on each task after each task at width 1.0, one panel a run; mean over the runs that differ only by seed.

    Arguments and errors as in `draw_curves`.
    """
    matplotlib = load_extra("matplotlib", extra="plot")
    groups = _with_results(runs)
    tasks = max(len(run.counts.totals) for run in runs if run.counts)
    across = len(groups) if len(groups) < 4 else 2 if len(groups) == 4 else 3
    down = math.ceil(len(groups) / across)
    side = max(0.36 * tasks, 2.2)
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        figure = load_extra("matplotlib.figure", extra="plot").Figure(
            figsize=((side + 0.7) * across + 0.7, (side + 0.9) * down), layout="constrained"
        )
        panels = figure.subplots(down, across, squeeze=False).flat
        images = [
            _draw_panel(panel, group, setting, letters=round(12 * side))
            for panel, group in zip(panels, groups, strict=False)
        ]
        for panel in list(figure.axes)[len(groups) :]:
            panel.set_axis_off()
        bar = figure.colorbar(images[0], ax=figure.axes, shrink=0.8 / down, aspect=25, pad=0.015, anchor=(0, 1))
        bar.set_label(f"task-{setting} accuracy (%)")
        bar.outline.set_visible(False)
        save_figure(figure, path)


def _with_results(runs: Sequence[Run]) -> list[Group]:
    groups = [group for group in group_by_seed(runs) if group.runs[0].finished_tasks]
    if not groups:
        raise ValueError(f"none of these {len(runs)} runs has finished a task; there is nothing to draw")
    return groups


def _looks(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Colour by method, dashes by number of widths, and the shape of the markers for what both leave alike."""
    alike: defaultdict[Any, count[int]] = defaultdict(count)

    def look(group: Group) -> dict[str, Any]:
        colour = METHOD_COLOURS.get(group.method, OTHER_COLOUR)
        dashes = WIDTH_DASHES.get(len(group.widths), OTHER_DASHES)
        return {
            "color": colour,
            "linestyle": dashes,
            "marker": MARKERS[next(alike[colour, dashes]) % len(MARKERS)],
            "markerfacecolor": "white" if len(group.widths) == 1 else None,
        }

    return [look(group) for group in groups]


def _draw_curve(panel: Any, group: Group, setting: Setting, look: dict[str, Any]) -> None:
    curves = group.measure(lambda counts: average_accuracy(counts, setting))
    mean, tasks = curves.mean(axis=0), np.arange(1, curves.shape[1] + 1)
    panel.plot(tasks, mean, label=_caption(group), **look)
    if len(curves) > 1:
        std = curves.std(axis=0, ddof=1)
        panel.fill_between(tasks, mean - std, mean + std, color=look["color"], alpha=0.18, linewidth=0)


def _draw_panel(panel: Any, group: Group, setting: Setting, letters: int) -> Any:
    matrix = group.measure(lambda counts: accuracy(counts, setting)).mean(axis=0)
    image = panel.imshow(matrix, vmin=0, vmax=100, cmap="viridis")
    for (after, on), value in np.ndenumerate(matrix):
        if not math.isnan(value):
            colour = "black" if value > 60 else "white"
            panel.text(on, after, f"{value:.0f}", ha="center", va="center", fontsize=7, color=colour)
    panel.set_title(fill(_caption(group), width=letters))
    panel.set_xlabel("accuracy on task")
    panel.set_ylabel("after task")
    tasks = matrix.shape[1]
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_ticks(range(tasks), [str(task + 1) for task in range(tasks)], fontsize=8)
    panel.tick_params(length=0)
    panel.set_ylim(tasks - 0.5, -0.5)
    panel.spines[:].set_visible(False)
    return image


def _caption(group: Group) -> str:
    seeds = "1 seed" if len(group.runs) == 1 else f"{len(group.runs)} seeds"
    return f"{group.label} ({seeds}{'' if group.runs[0].complete else ', unfinished'})"


def save_figure(figure: Any, path: Path) -> None:
    """Writes the figure in the format that the ending of `path` says; raises StorageError if that fails."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix.removeprefix(".") or "png")
    write_bytes(path, buffer.getvalue())
