"""The report of several runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from slimkern.experiments.atomic import make_folder, write_bytes
from slimkern.experiments.plots import draw_curves, draw_matrix
from slimkern.experiments.runs import ReportError, group_by_seed, read_runs
from slimkern.experiments.tables import closing_table, width_table


def report(folders: Sequence[Path], out: Path | None = None) -> list[Path]:
    """Prints the closing tables of these run folders as Markdown and, with `out`, writes files next to them.

    Args:
        folders: run folders, finished or not.
        out: folder for `report.md`, `runs.csv`, `widths.csv`, `curves.png` and `matrix.png`. Tables and figures that
            would be empty are left out.

    Returns:
        The files written.

    Raises:
        RunFolderError: if a folder holds no run.
        ReportError: if there is no folder, or the same run twice.
        ImportError: if figures are wanted and matplotlib isn't installed.
        StorageError: if a file can't be written.
    """
    if not folders:
        raise ReportError("no run folders were given; name at least one")
    runs = read_runs(folders)
    groups = group_by_seed(runs)
    tables = {"runs.csv": closing_table(groups), "widths.csv": width_table(groups)}
    tables = {name: table for name, table in tables.items() if table.rows}
    markdown = "\n".join(table.markdown() for table in tables.values())
    print(markdown)
    if out is None:
        return []
    make_folder(out)
    written = []
    if any(run.finished_tasks for run in runs):
        draw_curves(runs, out / "curves.png")
        draw_matrix(runs, out / "matrix.png")
        written += [out / "curves.png", out / "matrix.png"]
    texts = {"report.md": markdown, **{name: table.csv() for name, table in tables.items()}}
    for name, text in texts.items():
        write_bytes(out / name, text.encode())
        written.append(out / name)
    return written
