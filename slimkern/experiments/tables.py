"""Closing tables of runs, as Markdown, CSV or for a terminal."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from slimkern.continual.metrics import (
    Counts,
    Setting,
    average_accuracy,
    average_incremental_accuracy,
    backward_transfer,
    forgetting,
)
from slimkern.experiments.batch_answers import protocol
from slimkern.experiments.optional import load_extra
from slimkern.experiments.runs import Group


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over seeds; NaN where there is none, as for the deviation of a single run."""

    mean: float
    std: float

    @classmethod
    def of(cls, values: Sequence[float] | np.ndarray) -> Spread:
        """The spread of these values."""
        known = np.asarray(values, dtype=np.float64)
        return cls(
            float(known.mean()) if known.size else math.nan,
            float(known.std(ddof=1)) if known.size > 1 else math.nan,
        )

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "n/a"
        return f"{self.mean:.2f}" + ("" if math.isnan(self.std) else f" ± {self.std:.2f}")


@dataclass(frozen=True)
class Table:
    """Rows of text, numbers and spreads under a title."""

    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str | int | Spread, ...], ...]

    def markdown(self) -> str:
        """The table in Markdown, under its title in bold, numbers to the right."""
        cells = [self.headers, *[tuple(str(cell).replace("|", r"\|") for cell in row) for row in self.rows]]
        sizes = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
        text = [self._is_text(column) for column in range(len(self.headers))]

        def line(row: Sequence[str]) -> str:
            padded = (c.ljust(s) if t else c.rjust(s) for c, s, t in zip(row, sizes, text, strict=True))
            return f"| {' | '.join(padded)} |"

        rule = [("-" * size if t else "-" * (size - 1) + ":") for size, t in zip(sizes, text, strict=True)]
        return "\n".join([f"**{self.title}**", "", line(cells[0]), line(rule), *map(line, cells[1:]), ""])

    def csv(self) -> str:
        """The table as CSV with full precision; a spread takes two columns, empty where there is no number."""
        spread = [any(isinstance(row[column], Spread) for row in self.rows) for column in range(len(self.headers))]
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        names = [(f"{h}, mean", f"{h}, std") if s else (h,) for h, s in zip(self.headers, spread, strict=True)]
        writer.writerow([name for pair in names for name in pair])
        for row in self.rows:
            writer.writerow([value for cell in row for value in _plain(cell)])
        return file.getvalue()

    def latex(self) -> str:
        """The table as a LaTeX `table` for the package booktabs, its title as caption."""
        columns = "".join("l" if self._is_text(column) else "r" for column in range(len(self.headers)))
        head, *body = [" & ".join(_escaped(str(cell)) for cell in row) + r" \\" for row in (self.headers, *self.rows)]
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_escaped(self.title)}}}",
            rf"\begin{{tabular}}{{{columns}}}",
        ]
        lines += [r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""]
        return "\n".join(lines)

    def rich(self) -> Any:
        """The table as a `rich.table.Table`.

        Raises:
            ImportError: if rich isn't installed.
        """
        table = load_extra("rich.table", extra="train").Table(title=self.title)
        for column, name in enumerate(self.headers):
            table.add_column(name, justify="left" if self._is_text(column) else "right")
        for row in self.rows:
            table.add_row(*(load_extra("rich.text", extra="train").Text(str(cell)) for cell in row))
        return table

    def _is_text(self, column: int) -> bool:
        return any(isinstance(row[column], str) for row in self.rows)


LATEX = str.maketrans(
    {sign: f"\\{sign}" for sign in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
    | {"†": r"$^\dagger$", "·": r"$\cdot$", "→": r"$\to$"}
)
"""What stands for each character that LaTeX takes for a command, or that its older engines can't read."""

TITLE = "Average accuracy; incremental accuracy, forgetting and backward transfer, task-agnostic; percent"
IDENTITY = ("run", "tasks", "n")


def closing_table(groups: Sequence[Group]) -> Table:
    """One row a group: what it reached at width 1.0 after the last task learned, mean ± std over n seeds.

    Average accuracy, task-agnostic and task-aware; average incremental accuracy, forgetting and backward transfer, all
    task-agnostic. Where an AutoActivator was to be tested in batches, also how, and the average accuracy of that: all
    other columns are of images judged alone.
    """
    columns: dict[str, Callable[[Counts], float]] = {
        "agnostic": lambda counts: average_accuracy(counts, "agnostic")[-1],
        "aware": lambda counts: average_accuracy(counts, "aware")[-1],
        "incremental": lambda counts: average_incremental_accuracy(counts, "agnostic"),
        "forgetting": lambda counts: forgetting(counts, "agnostic")[-1],
        "transfer": lambda counts: backward_transfer(counts, "agnostic")[-1],
    }
    rows = [(*_identity(group), *(Spread.of(group.measure(metric)) for metric in columns.values())) for group in groups]
    if not any(protocol(group.runs[0].config) for group in groups):
        return Table(TITLE, (*IDENTITY, *columns), tuple(rows))
    in_batches = [
        (protocol(group.runs[0].config) or "of 1", Spread.of(group.measure_in_batches(columns["agnostic"])))
        for group in groups
    ]
    headers = (*IDENTITY, "test batches", "in batches", *columns)
    named = zip(rows, in_batches, strict=True)
    return Table(
        f"{TITLE}. All but `in batches` of single images", headers, tuple((*r[:3], *b, *r[3:]) for r, b in named)
    )


def width_table(groups: Sequence[Group]) -> Table:
    """Average accuracy after the last task learned, one column a width, for groups with more than one of them."""
    several = [group for group in groups if len(group.widths) > 1]
    widths = sorted({width for group in several for width in group.widths})
    settings: tuple[Setting, ...] = ("agnostic", "aware")
    rows = (
        (*_identity(group), f"task-{setting}", *(_at(group, setting, width) for width in widths))
        for group in several
        for setting in settings
    )
    headers = (*IDENTITY, "setting", *(f"width {width:g}" for width in widths))
    return Table("Average accuracy by width after the last task learned, percent", headers, tuple(rows))


def _identity(group: Group) -> tuple[str, str, int]:
    return group.label, group.status, len(group.runs)


def _at(group: Group, setting: Setting, width: float) -> Spread:
    if width not in group.widths:
        return Spread.of([])
    return Spread.of(group.measure(lambda counts: average_accuracy(counts, setting, width)[-1]))


def _escaped(text: str) -> str:
    return text.translate(LATEX)


def _plain(cell: str | int | Spread) -> list[str | int | float]:
    if not isinstance(cell, Spread):
        return [cell]
    return ["" if math.isnan(number) else number for number in (cell.mean, cell.std)]
