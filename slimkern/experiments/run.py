"""A run from its configuration to its folder."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from textwrap import shorten

import torch

from slimkern.continual.config import TrainConfig
from slimkern.continual.data import load
from slimkern.continual.methods import METHODS
from slimkern.continual.metrics import Counts
from slimkern.continual.processes import ALONE, Processes
from slimkern.continual.recorder import Recorder, Several
from slimkern.continual.trainers import make_trainer
from slimkern.continual.training import State, Trainer
from slimkern.continual.units.training import UnitTrainer
from slimkern.experiments.config_file import RunFolderError
from slimkern.experiments.folder_recorder import FolderRecorder
from slimkern.experiments.run_folder import CHECKPOINT, RunFolder


def run(
    config: TrainConfig,
    out: Path,
    root: Path | None = None,
    download: bool = False,
    device: torch.device | str = "cpu",
    recorders: Sequence[Recorder] = (),
    processes: Processes = ALONE,
    eager: bool = False,
) -> Counts:
    """Train what `config` says in the folder `out`, going on from its last checkpoint if it has one.

    The configuration is checked and the data read before anything is written.

    Args:
        config: the run.
        out: its folder; made if it isn't there.
        root: where the data set lies, unless it comes with scikit-learn.
        download: fetch the data set where it can be.
        device: where to train.
        recorders: told of the run, beside its folder; only those of process 0 are.
        processes: those that train the run together. Only process 0 writes.
        eager: see `slimkern.continual.training.train`.

    Raises:
        ConfigError, TaskError: the configuration can't be run.
        UnknownDatasetError, MissingDataError, CorruptDataError: the data can't be read.
        RunFolderError, StorageError: the folder is another run's, damaged, in use or can't be written.
        DivergedError: a loss was NaN or infinite; the last checkpoint is kept.
    """
    with processes.first_alone():
        dataset = load(config.data, root, download)
    trainer = make_trainer(config, dataset, torch.device(device), processes, eager=eager)
    if processes.rank > 0:
        return _follow(trainer, processes)
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(RunFolder.open(out, resolved(config, dataset.augmentation)))
            state = folder.load_checkpoint(map_location=device)
        except Exception:
            processes.broadcast({"usable": False})
            raise
        processes.broadcast({"usable": True, "state": state})
        return _go_on(trainer, state, Several([FolderRecorder(folder), *recorders]))


def _follow(trainer: Trainer | UnitTrainer, processes: Processes) -> Counts:
    found = processes.broadcast(None)
    if not found["usable"]:
        raise SystemExit(1)  # process 0 says why
    return _go_on(trainer, found["state"], Recorder())


def _go_on(trainer: Trainer | UnitTrainer, state: State | None, recorder: Recorder) -> Counts:
    if state is not None:
        try:
            trainer.load_state_dict(state)
        except torch.OutOfMemoryError:
            raise
        except (KeyError, TypeError, ValueError, RuntimeError) as cause:
            raise RunFolderError(
                f"{CHECKPOINT} is no checkpoint of this version of slimkern ({type(cause).__name__} "
                f"{shorten(str(cause), 160, placeholder=' ...')}); delete it to start the run again"
            ) from cause
    return trainer.counts if trainer.counts.complete else trainer.run(recorder)


def resolved(config: TrainConfig, augmentation: str) -> dict:
    """The configuration with every default filled in, as a run folder keeps it."""
    return {
        **config.to_dict(),
        "augmentation": config.augmentation or augmentation,
        "options": {**METHODS[config.method].options(), **config.options},
    }


def default_folder(config: TrainConfig) -> Path:
    """`runs/` and a name made of what most often differs between runs."""
    widths = "-".join(f"{width:g}" for width in config.all_widths().fractions)
    kept = config.exemplars or config.exemplars_per_class
    exemplars = f"-exemplars-{kept}{'-a-class' * bool(config.exemplars_per_class)}" if kept else ""
    details = f"{config.method}{exemplars}-widths-{widths}-epochs-{config.epochs}-seed-{config.seed}"
    return Path("runs") / f"{config.data}-{config.tasks}-{details}"
