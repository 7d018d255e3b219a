"""The analysis of several runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from slimkern.experiments.analysis.activation import Activation, activation_table, batch_table, draw_activation
from slimkern.experiments.analysis.branches import branch_table
from slimkern.experiments.analysis.by_width import draw_widths, long_table, refuse_unknown, wide_table
from slimkern.experiments.analysis.cost import Shape, cost_table
from slimkern.experiments.analysis.movement import Events, Moves, draw_movement, movement_table
from slimkern.experiments.analysis.movement_by_layer import draw_layers, layer_table
from slimkern.experiments.atomic import make_folder, write_bytes
from slimkern.experiments.run_folder import RunFolder
from slimkern.experiments.runs import Group, ReportError, group_by_seed, read_runs
from slimkern.experiments.tables import Table

_WITHOUT_WIDTHS = ("autoactivator", "scl-pnc")
"""Methods with networks of their own, whose widths have no cost."""


def analyse(
    folders: Sequence[Path],
    out: Path,
    widths: Sequence[float] = (),
    batch: int = 64,
    device: torch.device | str = "cpu",
) -> list[Path]:
    """Accuracy, forgetting and cost of every width, movement of every block, and AutoActivator's test batches.

    Args:
        folders: run folders with at least one finished task; runs that differ only by seed are averaged.
        out: folder for `analysis.md`, the CSV tables and the pictures. What would be empty is left out.
        widths: those to look at; by default all.
        batch: images that latencies are measured with; 0 measures none.
        device: where they are measured.

    Returns:
        The files written.

    Raises:
        RunFolderError: if a folder holds no run.
        ReportError: if there is no folder, a run without a finished task, the same run twice, an unknown width or a
            negative batch.
        ImportError: if matplotlib isn't installed.
        StorageError: if a file can't be written.
    """
    if not folders:
        raise ReportError("no run folders were given; name at least one")
    if batch < 0:
        raise ReportError(f"batch={batch} must be at least 0")
    runs = read_runs(folders)
    groups = group_by_seed(runs)
    for group in groups:
        if not group.runs[0].finished_tasks:
            raise ReportError(f"{group.runs[0].name} has not finished a task yet; there is nothing to analyse")
    refuse_unknown(widths, groups)
    events = {id(run): RunFolder.read(folder).events() for run, folder in zip(runs, folders, strict=True)}
    of_group = [[events[id(run)] for run in group.runs] for group in groups]
    moves = [own for group, told in zip(groups, of_group, strict=True) if (own := Moves.of(group, told))]
    activations = [own for group, told in zip(groups, of_group, strict=True) if (own := Activation.of(group, told))]
    shown = {
        "accuracy_by_width.csv": wide_table(groups, widths, "average accuracy"),
        "forgetting_by_width.csv": wide_table(groups, widths, "forgetting"),
        "cost.csv": cost_table(_shapes(groups, of_group), widths, batch, device),
        "activation.csv": activation_table(activations),
        "test_batches.csv": batch_table(activations),
        "branches.csv": branch_table(groups, of_group),
    }
    stored = {
        **shown,
        "widths_by_task.csv": long_table(groups, widths),
        "movement.csv": movement_table(moves),
        "movement_by_layer.csv": layer_table(moves),
    }
    pictures: dict[str, Callable[[Path], None]] = {"widths.png": lambda path: draw_widths(groups, widths, path)}
    if moves:
        pictures["movement.png"] = lambda path: draw_movement(moves, path)
        pictures["movement_by_layer.png"] = lambda path: draw_layers(moves, path)
    if activations:
        pictures["activation.png"] = lambda path: draw_activation(activations, path)
    return _write(out, shown, stored, pictures)


def _shapes(groups: Sequence[Group], events: Sequence[Sequence[Events]]) -> list[Shape]:
    """Those of the networks, each once."""
    shapes = []
    for group, told in zip(groups, events, strict=True):
        plan = next((event["plan"] for event in told[0] if event["kind"] == "started"), None)
        if plan and group.runs[0].config.get("method") not in _WITHOUT_WIDTHS:
            shapes.append(Shape.of(group.runs[0].config, plan["tasks"]))
    return list(dict.fromkeys(shapes))


def _write(
    out: Path, shown: dict[str, Table], stored: dict[str, Table], pictures: dict[str, Callable[[Path], None]]
) -> list[Path]:
    make_folder(out)
    images = "\n".join(f"![{Path(name).stem}]({name})\n" for name in pictures)
    markdown = "\n".join([*(table.markdown() for table in shown.values() if table.rows), images])
    print(markdown)
    for name, draw in pictures.items():
        draw(out / name)
    texts = {"analysis.md": markdown, **{name: table.csv() for name, table in stored.items() if table.rows}}
    for name, text in texts.items():
        write_bytes(out / name, text.encode())
    return [out / name for name in (*pictures, *texts)]
