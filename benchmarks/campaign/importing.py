"""From a campaign's folder into the repository: rows, choices of kernels, and the README's table of rows."""

from __future__ import annotations

import warnings
from pathlib import Path

import rows
from lines import read_lines

from slimkern.experiments.bench_report import KEYS, bench_report
from slimkern.experiments.runs import ReportError
from slimkern.kernels.choice_table import Table, read_table, write_table

README, PICTURES = rows.ROOT / "README.md", rows.ROOT / "docs"
CHOICES = rows.ROOT / "slimkern" / "kernels" / "choices.json"


def import_folder(folder: Path) -> list[Path]:
    """Store what a campaign has measured.

    Returns:
        The files that were written.

    Raises:
        FileNotFoundError: the folder holds no rows.
        ValueError: it is a rehearsal's, or what it holds is damaged; nothing is stored.
        ReportError: no README can be written from the rows; they are stored all the same.
        ImportError: so, as matplotlib is missing.
    """
    if not (measured := read_lines(folder / "rows.jsonl")):
        raise FileNotFoundError(f"{folder} holds no rows.jsonl with rows in it")
    if any(campaign.get("schedule") == "rehearsal" for campaign in read_lines(folder / "campaign.json")):
        raise ValueError(f"{folder} is a rehearsal's: its tiny shapes are no measurements")
    for row in measured:
        row.pop("step", None)
        if lacking := [key for key in KEYS if key not in row]:
            raise ValueError(f"{folder / 'rows.jsonl'} holds a row without {', '.join(lacking)}: {str(row)[:200]}")
    tables = [_checked_table(path) for path in (folder / "slimkern").glob("choices-*.json")]
    written = rows.save(measured)
    written += [merge_choices(table, CHOICES) for table in tables]
    try:
        return written + bench_report(rows.RESULTS, README, PICTURES)
    except (ReportError, ImportError) as error:
        error.add_note("Stored all the same: " + ", ".join(map(str, written)))
        raise


def _checked_table(path: Path) -> Table:
    """The choices of kernels in a file.

    Raises:
        ValueError: it is damaged, or of another version.
    """
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        table = read_table(path)
    if warned:
        raise ValueError(str(warned[0].message))
    return table


def merge_choices(measured: Table, shipped: Path) -> Path:
    """Add measured choices of kernels to the package's, which are known by the device's name alone."""
    kept = read_table(shipped)
    for fingerprint, problems in measured.items():
        of_device = kept.setdefault(fingerprint.partition(",")[0], {})
        for problem, ways in problems.items():
            of_device.setdefault(problem, {}).update(ways)
    write_table(shipped, kept)
    return shipped
