"""From a campaign's folder into the repository: rows, choices of kernels, and the README's table of rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import rows

from campaign.page import read_lines
from slimkern.experiments.bench_report import bench_report
from slimkern.experiments.runs import ReportError

README, PICTURES = rows.ROOT / "README.md", rows.ROOT / "docs"
CHOICES = rows.ROOT / "slimkern" / "kernels" / "choices.json"


def import_folder(folder: Path) -> list[Path]:
    """Store what a campaign has measured.

    Returns:
        The files that were written.

    Raises:
        FileNotFoundError: the folder holds no rows.
        ReportError: no README can be written from the rows; they are stored all the same.
        ImportError: so, as matplotlib is missing.
    """
    if not (measured := read_lines(folder / "rows.jsonl")):
        raise FileNotFoundError(f"{folder} holds no rows.jsonl with rows in it")
    written = rows.save(measured)
    written += [merge_choices(table, CHOICES) for table in (folder / "slimkern").glob("choices-*.json")]
    try:
        return written + bench_report(rows.RESULTS, README, PICTURES)
    except (ReportError, ImportError) as error:
        error.add_note("Stored all the same: " + ", ".join(map(str, written)))
        raise


def merge_choices(measured: Path, shipped: Path) -> Path:
    """Add the measured choices of kernels to the package's, which are known by the device's name alone.

    Raises:
        ValueError: the tables are of different versions.
    """
    new, kept = (json.loads(path.read_text(encoding="utf-8")) for path in (measured, shipped))
    if new["version"] != kept["version"]:
        raise ValueError(f"{measured} is of version {new['version']}, the package's table of {kept['version']}")
    devices: dict[str, dict[str, Any]] = kept["devices"]
    for fingerprint, problems in new["devices"].items():
        of_device = devices.setdefault(fingerprint.partition(",")[0], {})
        for problem, ways in problems.items():
            of_device.setdefault(problem, {}).update(ways)
    rows.replace(shipped, json.dumps(kept, indent=1, sort_keys=True) + "\n")
    return shipped
