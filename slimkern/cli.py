"""The subcommands of `slimkern`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console

from slimkern.continual.config import ConfigError, TrainConfig
from slimkern.continual.data import CorruptDataError, MissingDataError, MissingExtraError, UnknownDatasetError
from slimkern.continual.methods import METHODS
from slimkern.continual.tasks import TaskError
from slimkern.continual.training import DivergedError
from slimkern.experiments.analysis.analyse import analyse as make_analysis
from slimkern.experiments.atomic import StorageError
from slimkern.experiments.config_file import RunFolderError
from slimkern.experiments.demo import demo as run_demo
from slimkern.experiments.progress import ProgressRecorder
from slimkern.experiments.report import report as make_report
from slimkern.experiments.run import default_folder, run
from slimkern.experiments.runs import ReportError, group_by_seed, read_runs
from slimkern.experiments.tables import closing_table, width_table
from slimkern.experiments.tensorboard import TensorBoardRecorder
from slimkern.info import describe
from slimkern.memory import keep_freed_memory
from slimkern.nn import ConversionError

MENDABLE = (
    ConfigError, ConversionError, TaskError, UnknownDatasetError, MissingDataError, CorruptDataError, MissingExtraError,
    RunFolderError, ReportError, StorageError, DivergedError, ImportError,
)  # fmt: skip
"""Errors whose message tells the user what to do; all others keep their traceback."""

app = tyro.extras.SubcommandApp()


def run_or_explain(command: Any) -> int:
    """Run a command line; the exit status."""
    try:
        command.cli(prog="slimkern", description="Slimmable and scrolling networks for continual learning.")
    except MENDABLE as error:
        print(f"slimkern: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("slimkern: interrupted; the same command goes on from the last finished epoch", file=sys.stderr)
        return 130
    return 0


@app.command
def train(
    config: tyro.conf.OmitArgPrefixes[TrainConfig],
    out: Path | None = None,
    root: Path | None = None,
    download: bool = False,
    device: str = "auto",
    tensorboard: bool = False,
) -> None:
    """Learn a sequence of tasks. The same command goes on with a run that was interrupted.

    Args:
        config: What to run.
        out: Folder of the run; by default one in runs/ named after the run.
        root: Folder of the data sets, for all but digits.
        download: Fetch the data set first, where that can be done.
        device: cpu, cuda, cuda:1 ...; auto takes a GPU if there is one.
        tensorboard: Also write TensorBoard logs into the folder.
    """
    folder = out or default_folder(config)
    place = _device(device)
    keep_freed_memory()
    extra = [TensorBoardRecorder(folder / "tensorboard")] if tensorboard else []
    with ProgressRecorder() as progress:
        run(config, folder, root, download, place, [progress, *extra])
    groups, console = group_by_seed(read_runs([folder])), Console()
    for table in (closing_table(groups), width_table(groups)):
        if table.rows:
            console.print(table.rich() if console.is_terminal else table.markdown(), soft_wrap=not console.is_terminal)
    print(f"The run is in {folder}; `slimkern report {folder}` draws it.")


@app.command
def demo(out: Path = Path("runs/demo")) -> None:
    """Train and report FT and EWC, plain and as ScrollNet-4, on five tasks of handwritten digits.

    Args:
        out: Folder for the runs and their report.
    """
    keep_freed_memory()
    files = run_demo(out)
    print("Written:", *files, sep="\n  ")


@app.command
def report(folders: tyro.conf.Positional[tuple[Path, ...]], out: Path = Path("report")) -> None:
    """Tables and pictures of runs, finished or not; runs that differ only in the seed are averaged.

    Args:
        folders: Run folders.
        out: Folder for report.md, the CSV tables, curves.png and matrix.png.
    """
    files = make_report(folders, out)
    print("Written:", *files, sep="\n  ")


@app.command
def analyse(
    folders: tyro.conf.Positional[tuple[Path, ...]],
    out: Path = Path("analysis"),
    widths: tuple[float, ...] = (),
    batch: int = 64,
    device: str = "auto",
) -> None:
    """Look into runs: every width after every task, its cost, how far each block moved, AutoActivator's test batches.

    Args:
        folders: Run folders.
        out: Folder for analysis.md, the CSV tables and the pictures.
        widths: Those to look at; by default all.
        batch: Images that latencies are measured with; 0 measures none.
        device: Where latencies are measured.
    """
    files = make_analysis(folders, out, widths, batch, _device(device))
    print("Written:", *files, sep="\n  ")


@app.command
def methods() -> None:
    """List the methods and their options."""
    for name, method in METHODS.items():
        options = ", ".join(f"{option} {default:g}" for option, default in method.options().items())
        first_line = (method.__doc__ or "").partition("\n")[0]
        print(f"{name}: {first_line}\n    options: {options or 'none'}")


@app.command
def info() -> None:
    """Say which backends serve the operators here, and what is missing."""
    print(describe())


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    allowed = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if name not in (*allowed, "cuda" if len(allowed) > 1 else "cpu"):
        raise ConfigError(f"device={name} is not here; allowed: auto, {', '.join(allowed)}")
    return torch.device(name)
