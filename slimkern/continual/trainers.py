"""Which trainer a configuration asks for."""

from __future__ import annotations

from pathlib import Path

import torch

from slimkern.continual.branches.training import BranchTrainer
from slimkern.continual.config import ConfigError, TrainConfig
from slimkern.continual.data import Dataset
from slimkern.continual.processes import ALONE, Processes
from slimkern.continual.search import SearchingTrainer
from slimkern.continual.training import Trainer
from slimkern.continual.units.training import Features, UnitTrainer


def make_trainer(
    config: TrainConfig,
    dataset: Dataset,
    device: torch.device,
    processes: Processes = ALONE,
    eager: bool = False,
    features: Features | None = None,
) -> Trainer | UnitTrainer:
    """The trainer of a run, at its start.

    Args:
        config: the run.
        dataset: its images.
        device: where to train.
        processes: those that train the run together.
        eager: never replay recorded steps.
        features: for AutoActivator, a frozen network in place of the one in the file that the configuration names.

    Raises:
        ConfigError, TaskError: the configuration can't be run.
    """
    if config.method == "autoactivator":
        if processes.count > 1:
            raise ConfigError(f"{processes.count} processes: autoactivator recruits its units in one")
        if features is None and config.features is not None:
            features = _exported(config.features, device)
        return UnitTrainer(config, dataset, device, features)
    if config.method == "scl-pnc":
        if processes.count > 1:
            raise ConfigError(f"{processes.count} processes: scl-pnc trains in one")
        return BranchTrainer(config, dataset, device, eager=eager)
    return (SearchingTrainer if config.search else Trainer)(config, dataset, device, processes, eager)


def _exported(file: str, device: torch.device) -> Features:
    """A network saved by `torch.export.save`, for batches of any size."""
    if not Path(file).is_file():  # torch would print a traceback, too
        raise ConfigError(f"features={file}: there is no such file; it must be a network saved by torch.export.save")
    try:
        # What it gives refuses to be put into evaluation mode, which it is in: so only its forward pass is handed on.
        return torch.export.load(file).module(check_guards=False).to(device).forward
    except Exception as cause:
        reason = str(cause).partition("\n")[0] or type(cause).__name__
        raise ConfigError(f"features={file}: {reason}; it must be a network saved by torch.export.save") from cause
