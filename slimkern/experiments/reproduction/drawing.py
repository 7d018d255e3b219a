"""Pictures of comparisons. Needs matplotlib, from the extra slimkern[plot]; no display."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np

from slimkern.experiments.optional import load_extra
from slimkern.experiments.plots import METHOD_COLOURS, OTHER_COLOUR, STYLE, WIDTH_DASHES, save_figure
from slimkern.experiments.reproduction.comparison import Comparison
from slimkern.experiments.reproduction.targets import VARIANTS
from slimkern.experiments.reproduction.texts import WORDS, Report

MARKERS = {"": "o", **dict(zip(VARIANTS.values(), "osD", strict=True))}
DASHES = {variant: WIDTH_DASHES[count] for count, variant in VARIANTS.items()}
PAPER_COLOUR = "#999999"


def draw(report: Report, path: Path) -> None:
    """The report as a picture: points for a table, curves for a figure.

    The paper's figures are hollow and grey, and left out of a report of shortened runs.

    Raises:
        ImportError: matplotlib isn't installed.
        StorageError: the file can't be written.
    """
    matplotlib = load_extra("matplotlib", extra="plot")
    with matplotlib.rc_context(STYLE):
        figure = _curves(report) if report.target.curves else _points(report)
        when = "each task" if report.target.curves else "the last task"
        wide = round(figure.get_figwidth() * 10.5)
        lines = [fill(line, wide) for line in (report.title(when), report.shortened) if line]
        figure.suptitle("\n".join(lines), x=0.01, ha="left", color="#B00000" if report.shortened else "black")
        save_figure(figure, path)


def _points(report: Report) -> Any:
    """A panel for each setting and split; methods side by side, networks in their order."""
    settings = list(report.target.judged)
    splits = list(dict.fromkeys(c.cell.split for c in report.comparisons))
    methods = list(dict.fromkeys(c.cell.method for c in report.comparisons))
    variants = list(dict.fromkeys(c.cell.variant for c in report.comparisons))
    figure, panels = _panels(len(settings), len(splits), max(3.4, 1.0 + 0.62 * len(methods)), 3.0)
    for c in report.comparisons:
        panel = panels[settings.index(c.setting)][splits.index(c.cell.split)]
        place = methods.index(c.cell.method) + 0.26 * (variants.index(c.cell.variant) - (len(variants) - 1) / 2)
        _point(panel, place, c)
    for setting, row in zip(settings, panels, strict=True):
        for split, panel in zip(splits, row, strict=True):
            panel.set_title(f"{WORDS[setting].capitalize()}, {split}")
            panel.set_xticks(range(len(methods)), methods)
            panel.set_xlim(-0.6, len(methods) - 0.4)
        _from_zero(row)
    samples = [_sample(marker=MARKERS[v], label=v, color="black", linestyle="none") for v in variants if v]
    _legend(figure, report, samples)
    return figure


def _point(panel: Any, place: float, comparison: Comparison) -> None:
    marker = MARKERS[comparison.cell.variant]
    paper = comparison.published
    if paper is not None and comparison.comparable:
        panel.errorbar(place + 0.08, paper.mean, paper.std, color=PAPER_COLOUR, marker=marker, mfc="white", zorder=2)
    if len(comparison.curves):
        ours = comparison.ours
        colour = METHOD_COLOURS.get(comparison.cell.method, OTHER_COLOUR)
        spread = None if np.isnan(ours.std) else ours.std
        panel.errorbar(place, ours.mean, spread, color=colour, marker=marker, zorder=3)
    else:
        panel.annotate(
            "missing",
            (place, 0),
            (0, 3),
            textcoords="offset points",
            rotation=90,
            ha="center",
            fontsize=7,
            color="#666666",
        )


def _curves(report: Report) -> Any:
    """A panel for each split and method, a line for each network."""
    splits = list(dict.fromkeys(c.cell.split for c in report.comparisons))
    methods = list(dict.fromkeys(c.cell.method for c in report.comparisons))
    variants = list(dict.fromkeys(c.cell.variant for c in report.comparisons))
    figure, panels = _panels(len(splits), len(methods), max(2.3, 7.5 / len(methods)), 2.5)
    for split, row in zip(splits, panels, strict=True):
        for method, panel in zip(methods, row, strict=True):
            own = [c for c in report.comparisons if (c.cell.split, c.cell.method) == (split, method)]
            for comparison in own:
                _curve(panel, comparison)
            missing = [f"{c.cell.variant}: missing" for c in own if not len(c.curves)]
            panel.text(0.98, 0.98, "\n".join(missing), transform=panel.transAxes, ha="right", va="top", fontsize=7)
            panel.set_title(f"{method}, {split}")
            panel.set_xlim(0.5, 1.08 * split.tasks + 0.2)
            panel.xaxis.get_major_locator().set_params(integer=True)
        _from_zero(row)
    for panel in panels[-1]:
        panel.set_xlabel("tasks learned")
    samples = [_sample(marker=MARKERS[v], linestyle=DASHES[v], label=v, color="black") for v in variants]
    _legend(figure, report, samples)
    return figure


def _curve(panel: Any, comparison: Comparison) -> None:
    variant, paper = comparison.cell.variant, comparison.published
    if paper is not None and comparison.comparable:
        beside = 1.05 * comparison.cell.tasks
        panel.errorbar(
            beside, paper.mean, paper.std, color=PAPER_COLOUR, marker=MARKERS[variant], mfc="white", zorder=4
        )
    curves = comparison.curves
    if not len(curves):
        return
    mean, tasks = curves.mean(0), np.arange(1, curves.shape[1] + 1)
    look = {"color": METHOD_COLOURS.get(comparison.cell.method, OTHER_COLOUR), "linestyle": DASHES[variant]}
    panel.plot(tasks, mean, marker=MARKERS[variant], **look)
    if len(curves) > 1:
        std = curves.std(0, ddof=1)
        panel.fill_between(tasks, mean - std, mean + std, color=look["color"], alpha=0.15, linewidth=0)


def _panels(rows: int, columns: int, width: float, height: float) -> tuple[Any, Sequence[Sequence[Any]]]:
    size = max(width * columns, 6.5), height * rows + 1.1
    figure = load_extra("matplotlib.figure", extra="plot").Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, sharey="row")


def _from_zero(row: Sequence[Any]) -> None:
    """Accuracies from 0 to a little above all markers; only once all are drawn, as this fixes the shared axis."""
    row[0].set_ylim(0, 1.05 * row[0].get_ylim()[1])
    row[0].set_ylabel("average accuracy (%)")


def _legend(figure: Any, report: Report, samples: list[Any]) -> None:
    if not report.differences:
        samples.append(_sample(marker="o", mfc="white", color=PAPER_COLOUR, linestyle="none", label="paper"))
    figure.legend(handles=samples, loc="outside lower left", ncols=len(samples), handlelength=3.0)


def _sample(**look: Any) -> Any:
    return load_extra("matplotlib.lines", extra="plot").Line2D([], [], **look)
