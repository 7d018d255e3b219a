"""Comparisons as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from slimkern.experiments.reproduction.comparison import RUNS_IF_UNSTATED, Comparison
from slimkern.experiments.reproduction.published import SOURCES, Judged
from slimkern.experiments.reproduction.targets import BATCH, Split, Target
from slimkern.experiments.tables import Spread, Table

DAGGER = "†"
ABOUT_TEST = f"""\
z = (ours - paper) / sqrt(s_ours² / n_ours + s_paper² / n_paper); p from Student's t with Welch's degrees of freedom.
Both need two finished runs. Where a paper doesn't state its number of runs, n_paper = {RUNS_IF_UNSTATED}, to which the
decimals of the ScrollNet paper point.
"""
WORDS: dict[Judged, str] = {
    "agnostic": "task-agnostic",
    "aware": "task-aware",
    "batches": f"in batches of {BATCH} of one task",
}


@dataclass(frozen=True, eq=False)
class Report:
    """All that a report tells.

    Attributes:
        target: the table or figure of the paper.
        seeds: those asked for.
        differences: in what the runs differ from the paper's, in words; any of them makes them incomparable.
        variations: their protocol and precision, by name, where those aren't the paper's.
        comparisons: one a cell and setting.
        missing: name and state of each run that isn't finished.
    """

    target: Target
    seeds: tuple[int, ...]
    differences: tuple[str, ...]
    variations: dict[str, str]
    comparisons: Sequence[Comparison]
    missing: Sequence[tuple[str, str]]

    @property
    def shortened(self) -> str:
        """What readers must be told first; empty if the runs are as the paper's."""
        return f"SHORTENED: {', '.join(self.differences)}" if self.differences else ""

    @property
    def varied(self) -> str:
        """With what the runs were trained that isn't the paper's; empty if with nothing."""
        return ", ".join(f"{name} {value}" for name, value in self.variations.items())

    @property
    def name(self) -> str:
        """The table or figure in words."""
        return self.target.title

    def title(self, when: str) -> str:
        """What a table or picture shows that tells of the accuracy after `when`."""
        settings = " and ".join(WORDS[judged] for judged in self.target.judged)
        varied = f"; {self.varied}" if self.varied else ""
        if self.target.metric != "average accuracy":
            when = "each task, averaged"
        weights = ", test images weighing the same" if self.target.by_image else ""
        on = " and ".join(dict.fromkeys(c.cell.split.dataset for c in self.comparisons))
        return f"{self.name}: average accuracy (%) after {when} on {on}, {settings}{weights}{varied}"


def overview(report: Report) -> Table:
    """Laid out as in the paper: a column for each setting and split; ours above the paper's."""
    splits = dict.fromkeys(c.cell.split for c in report.comparisons)
    columns: list[tuple[Judged, Split]] = [(judged, split) for judged in report.target.judged for split in splits]
    found = {(c.cell.method, c.cell.variant, c.setting, c.cell.split): c for c in report.comparisons}
    rows = []
    for method, variant in dict.fromkeys((c.cell.method, c.cell.variant) for c in report.comparisons):
        own = [found[method, variant, *column] for column in columns]
        rows.append((method, variant, "ours", *(_ours(comparison) for comparison in own)))
        if any(comparison.published for comparison in own):
            rows.append((method, variant, "paper", *(_paper(comparison) for comparison in own)))
    headers = ("method", "network", "from", *(f"{judged}, {split}" for judged, split in columns))
    mark = f". {report.shortened} ({DAGGER}: not comparable)" if report.shortened else ""
    return Table(report.title("the last task") + mark, headers, tuple(rows))


def comparison_table(report: Report) -> Table:
    """A row for each cell and setting, with the difference and its test."""
    rows = tuple(
        (
            c.cell.method, c.cell.variant, str(c.cell.split), WORDS[c.setting], c.runs, str(c.ours), _paper(c),
            _signed(c.difference), _signed(c.test.z), _number(c.test.p, ".3f"),
        )
        for c in report.comparisons
    )  # fmt: skip
    headers = ("method", "network", "split", "setting", "runs", "ours", "paper", "difference", "z", "p")
    return Table("Differences from the paper", headers, rows)


def markdown(report: Report) -> str:
    """The whole report."""
    parts = [f"# {report.name}{', shortened' * bool(report.shortened)}", ""]
    if report.shortened:
        parts += [f"> **{report.shortened}.** Figures marked {DAGGER} can't be compared with the paper's.", ""]
    if report.varied:
        parts += [f"> **Trained with {report.varied}.**", ""]
    parts += [overview(report).markdown(), _about_ours(report)]
    if not report.differences:
        parts += [comparison_table(report).markdown(), ABOUT_TEST, _about_paper(report)]
    if report.missing:
        parts += [Table("Runs that aren't finished", ("run", "state"), tuple(report.missing)).markdown()]
    return "\n".join(parts)


def latex(report: Report) -> str:
    """The tables of the report; shortened runs have no differences from the paper to show."""
    tables = [overview(report)] if report.differences else [overview(report), comparison_table(report)]
    return "\n".join(table.latex() for table in tables)


def comparison_csv(report: Report) -> str:
    """A row for each cell and setting, numbers at full precision; empty where there is no number."""
    names = (
        "dataset,method,network,tasks,setting,runs,runs_wanted,mean,std,paper_mean,paper_std,difference,z,p,shortened,"
        "varied"
    )
    rows = [
        [
            *_identity(c), len(c.curves), len(c.cell.jobs), c.ours.mean, c.ours.std,
            *((c.published.mean, c.published.std) if c.published else (math.nan, math.nan)),
            c.difference, c.test.z, c.test.p, "; ".join(report.differences), report.varied,
        ]
        for c in report.comparisons
    ]  # fmt: skip
    return _csv(names.split(","), rows)


def curve_csv(report: Report) -> str:
    """A row for each cell, setting and task learned; the paper's text has the last of each curve only."""
    names = (
        "dataset,method,network,tasks,setting,after_task,runs,runs_wanted,mean,std,paper_mean,paper_std,difference,z,p,"
        "shortened,varied"
    )
    rows = []
    for c in report.comparisons:
        for task in range(c.cell.tasks):
            ours, last = Spread.of(c.curves[:, task]), task + 1 == c.cell.tasks
            paper = [math.nan] * 5
            if c.published and last:
                paper = [c.published.mean, c.published.std, c.difference, c.test.z, c.test.p]
            counts, marks = (task + 1, len(c.curves), len(c.cell.jobs)), ("; ".join(report.differences), report.varied)
            rows.append([*_identity(c), *counts, ours.mean, ours.std, *paper, *marks])
    return _csv(names.split(","), rows)


def _identity(comparison: Comparison) -> list[str | int]:
    cell = comparison.cell
    return [cell.split.dataset, cell.method, cell.variant, cell.tasks, comparison.setting]


def _about_ours(report: Report) -> str:
    seeds = ", ".join(map(str, report.seeds))
    return (
        f"Ours: mean ± sample standard deviation over the finished runs of seeds {seeds}; how many in brackets if some "
        'are missing, "missing" if all are. A seed also shuffles the classes.\n'
    )


def _about_paper(report: Report) -> str:
    """Where the paper's figures stand, and under which protocol."""
    rows = [c.published for c in report.comparisons if c.published]
    tables = ", ".join(dict.fromkeys(row.table for row in rows)) or "nothing of this"
    remarks = "; ".join(dict.fromkeys(row.remark for row in rows if row.remark))
    return f"Paper: {tables} in {SOURCES[report.target.system]}{f': {remarks}' if remarks else ''}.\n"


def _ours(comparison: Comparison) -> str:
    if not len(comparison.curves):
        return "missing"
    mark = "" if comparison.comparable else DAGGER
    all_there = len(comparison.curves) == len(comparison.cell.jobs)
    return f"{comparison.ours}{mark}" + ("" if all_there else f" ({comparison.runs})")


def _paper(comparison: Comparison) -> str:
    paper = comparison.published
    return str(Spread(paper.mean, paper.std)) if paper else "n/a"


def _signed(value: float) -> str:
    return _number(value, "+.2f")


def _number(value: float, form: str) -> str:
    return "n/a" if math.isnan(value) else format(value, form)


def _csv(names: Sequence[str], rows: Sequence[Sequence[str | int | float]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([["" if isinstance(v, float) and math.isnan(v) else v for v in row] for row in rows])
    return file.getvalue()
