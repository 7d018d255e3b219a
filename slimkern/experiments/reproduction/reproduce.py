"""Redoing a table or a figure of a paper."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from slimkern.continual.data import load
from slimkern.experiments.atomic import make_folder, write_bytes
from slimkern.experiments.reproduction.cells import Cell
from slimkern.experiments.reproduction.comparison import compare
from slimkern.experiments.reproduction.drawing import draw
from slimkern.experiments.reproduction.selection import Selection
from slimkern.experiments.reproduction.targets import Target
from slimkern.experiments.reproduction.texts import Report, comparison_csv, curve_csv, latex, markdown
from slimkern.experiments.sweeps.job import Job, Outcome, progress_of
from slimkern.experiments.sweeps.sweep import Pool, sweep
from slimkern.experiments.sweeps.watch import ProgressWatcher
from slimkern.experiments.tables import Table


def train_missing(cells: Sequence[Cell], pool: Callable[[], Pool], download: bool = False) -> list[Outcome]:
    """Trains the runs of these cells that aren't finished; one that was killed goes on.

    Args:
        cells: the cells.
        pool: makes the pool to train on, if there is anything to train.
        download: fetch the data set first, where that can be done.

    Returns:
        How each run that was trained ended.

    Raises:
        RunFolderError: before anything is trained, if a run folder is damaged, of another format version or holds
            another configuration.
        MissingDataError, CorruptDataError: before anything is trained, if the data can't be read.
    """
    jobs = [job for job in _jobs(cells) if progress_of(job).kind != "finished"]
    if not jobs:
        return []
    for data, root in dict.fromkeys((job.config.data, job.root) for job in jobs):
        load(data, root, download)
    with ProgressWatcher(jobs) as watcher:
        return sweep(jobs, pool(), watcher)


def write_report(
    target: Target, selection: Selection, cells: Sequence[Cell], outcomes: Sequence[Outcome], out: Path
) -> list[Path]:
    """Writes Markdown, LaTeX, CSV and PNG of what is finished, shortened or otherwise varied runs to files named so.

    Args:
        target: the table or figure.
        selection: the part of it, as given to `cells`.
        cells: its cells.
        outcomes: of the runs that were just trained: why some are missing.
        out: folder for the files.

    Returns:
        The files.

    Raises:
        RunFolderError, StorageError: a run folder can't be read, or a file written.
        ImportError: matplotlib isn't installed.
    """
    differences = selection.differences(target)
    failures = {outcome.job: outcome.failure for outcome in outcomes if outcome.failure is not None}
    states = [(job, progress_of(job)) for job in _jobs(cells)]
    missing = [
        (job.name, f"failed: {failures[job]}" if job in failures else found.detail or found.kind)
        for job, found in states
        if found.kind != "finished"
    ]
    comparisons = compare(cells, target, comparable=not differences)
    variations = selection.variations()
    report = Report(target, selection.all_seeds(target), differences, variations, comparisons, missing)
    make_folder(out)
    stem = out / "-".join([target.name, *variations.values(), *(["shortened"] if differences else [])])
    texts = {
        ".md": markdown(report),
        ".tex": latex(report),
        ".csv": curve_csv(report) if target.curves else comparison_csv(report),
    }
    for ending, text in texts.items():
        write_bytes(stem.with_suffix(ending), text.encode())
    draw(report, stem.with_suffix(".png"))
    return [stem.with_suffix(ending) for ending in (*texts, ".png")]


def run_table(cells: Sequence[Cell]) -> Table:
    """The runs of these cells, and how far they are; raises as `train_missing`."""
    rows = []
    for job in _jobs(cells):
        found = progress_of(job)
        rows.append((job.name, found.kind, f"{100 * found.share:.0f} %", found.detail))
    return Table(f"{len(rows)} runs", ("run", "state", "epochs done", "where"), tuple(rows))


def _jobs(cells: Sequence[Cell]) -> list[Job]:
    return [job for cell in cells for job in cell.jobs]
