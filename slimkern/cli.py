"""The subcommands of `slimkern`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, cast

import torch
import tyro
from rich.console import Console

from slimkern.continual.config import ConfigError, MethodName, TrainConfig
from slimkern.continual.methods import METHODS, config_for
from slimkern.continual.processes import joined_processes
from slimkern.experiments.analysis.analyse import analyse as make_analysis
from slimkern.experiments.bench_report import bench_report
from slimkern.experiments.demo import demo as run_demo
from slimkern.experiments.errors import MENDABLE
from slimkern.experiments.progress import ProgressRecorder
from slimkern.experiments.report import report as make_report
from slimkern.experiments.reproduction.cells import cells
from slimkern.experiments.reproduction.reproduce import run_table, train_missing, write_report
from slimkern.experiments.reproduction.selection import Selection
from slimkern.experiments.reproduction.targets import TARGETS, TargetName
from slimkern.experiments.run import default_folder, run
from slimkern.experiments.runs import group_by_seed, read_runs
from slimkern.experiments.sweeps.sweep import refuse_failures
from slimkern.experiments.sweeps.workplace import Workplace
from slimkern.experiments.tables import Table, closing_table, width_table
from slimkern.experiments.tensorboard import TensorBoardRecorder
from slimkern.info import describe
from slimkern.memory import keep_freed_memory

app = tyro.extras.SubcommandApp()


def run_or_explain(command: Any) -> int:
    """Run a command line; the exit status."""
    command.command(partial(train, config=_starting_point(sys.argv[1:])), name="train")
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
    eager: bool = False,
    tensorboard: bool = False,
) -> None:
    """Learn a sequence of tasks. The same command goes on with a run that was interrupted.

    Several processes share each batch where torchrun starts them: torchrun --nproc-per-node 2 -m slimkern train ...

    Args:
        config: What to run.
        out: Folder of the run; by default one in runs/ named after the run.
        root: Folder of the data sets, for all but digits.
        download: Fetch the data set first, where that can be done.
        device: cpu, cuda, cuda:1 ...; auto takes a GPU if there is one.
        eager: Go through the Python of every step, instead of replaying a recorded one (a CUDA graph on a GPU).
        tensorboard: Also write TensorBoard logs into the folder.
    """
    folder = out or default_folder(config)
    keep_freed_memory()
    with joined_processes(_device(device)) as processes:
        first = processes.rank == 0
        extra = [TensorBoardRecorder(folder / "tensorboard")] if tensorboard and first else []
        with ProgressRecorder() as progress:
            run(config, folder, root, download, processes.device, [progress, *extra], processes, eager)
    if not first:
        return
    groups = group_by_seed(read_runs([folder]))
    for table in (closing_table(groups), width_table(groups)):
        if table.rows:
            _show(table)
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
def reproduce(
    target: tyro.conf.Positional[TargetName],
    selection: tyro.conf.OmitArgPrefixes[Selection],
    workplace: tyro.conf.OmitArgPrefixes[Workplace],
    root: Path | None = None,
    download: bool = False,
    device: str = "auto",
    out: Path = Path("runs/reproduction"),
    dry_run: bool = False,
) -> None:
    """Redo a published table or figure: train what is missing, and report it beside the published figures.

    table1, table2, figure4 and figure5 are those of the ScrollNet paper.

    Finished runs are only reported, and killed ones go on. Shortened runs are marked and never compared.

    Args:
        target: Which.
        selection: Which part of it, and whether its runs are shortened.
        workplace: Where to train.
        root: Folder of the data sets.
        download: Fetch the data set first, where that can be done.
        device: cpu, cuda, cuda:1 ...; auto takes a GPU if there is one.
        out: Folder of the report; the run folders lie in runs/ within.
        dry_run: Only list the runs, and how far they are.
    """
    # The GPUs of a cluster needn't be this machine's.
    place = torch.device(device) if workplace.ray and device == "cuda" else _device(device)
    table = cells(TARGETS[target], selection, out / "runs", root, "cpu" if place.type == "cpu" else "cuda")
    if dry_run:
        _show(run_table(table))
        return
    outcomes = train_missing(table, lambda: workplace.pool(place, out / "logs"), download)
    files = write_report(TARGETS[target], selection, table, outcomes, out)
    print("Written:", *files, sep="\n  ")
    refuse_failures(outcomes)


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
def bench(
    action: tyro.conf.Positional[Literal["report"]],
    results: Path = Path("benchmarks/results"),
    readme: Path = Path("README.md"),
    pictures: Path = Path("docs"),
) -> None:
    """Write the README's figures of speed and their pictures, from the stored rows of benchmarks alone.

    Args:
        action: What to do with the rows.
        results: Folder of rows, as benchmarks write them with --save.
        readme: File with the marks that the figures go between.
        pictures: Folder for training_step.png and step_breakdown.png.
    """
    files = bench_report(results, readme, pictures)
    print("Written:", *files, sep="\n  ")


@app.command
def info() -> None:
    """Say which backends serve the operators here, and what is missing."""
    print(describe())


def _starting_point(arguments: Sequence[str]) -> TrainConfig:
    """The configuration that a command line changes: each method has defaults of its own."""
    method = "ft"
    for given, following in pairwise([*arguments, ""]):
        flag, equals, value = given.partition("=")
        if flag == "--method":
            method = value if equals else following
    return config_for(cast(MethodName, method if method in METHODS else "ft"))


def _show(table: Table) -> None:
    console = Console()
    console.print(table.rich() if console.is_terminal else table.markdown(), soft_wrap=not console.is_terminal)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    allowed = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if name not in (*allowed, "cuda" if len(allowed) > 1 else "cpu"):
        raise ConfigError(f"device={name} is not here; allowed: auto, {', '.join(allowed)}")
    return torch.device(name)
