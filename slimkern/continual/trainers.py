"""Which trainer a configuration asks for."""

from __future__ import annotations

from typing import Any

from slimkern.continual.config import TrainConfig
from slimkern.continual.data import Dataset
from slimkern.continual.search import SearchingTrainer
from slimkern.continual.training import Trainer


def make_trainer(config: TrainConfig, dataset: Dataset, *placement: Any) -> Trainer:
    """The trainer of a run, at its start; arguments and errors as those of `Trainer`."""
    kind = SearchingTrainer if config.search else Trainer
    return kind(config, dataset, *placement)
