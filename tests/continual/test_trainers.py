from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from slimkern.continual.config import ConfigError, TrainConfig
from slimkern.continual.processes import Processes
from slimkern.continual.search import SearchingTrainer
from slimkern.continual.trainers import make_trainer
from slimkern.continual.training import Trainer
from tests.continual.few_digits import TINY, few_digits

CPU = torch.device("cpu")


@pytest.mark.parametrize(("config", "kind"), [(TINY, Trainer), (replace(TINY, search=True), SearchingTrainer)])
def test_a_trainer_knows_where_and_how_it_trains(config: TrainConfig, kind: type[Trainer]) -> None:
    processes = Processes(rank=1, count=2)
    trainer = make_trainer(config, few_digits(), CPU, processes, eager=True)
    assert type(trainer) is kind
    assert trainer.processes is processes and trainer._eager  # pyright: ignore[reportAttributeAccessIssue]


def test_units_are_recruited_in_one_process() -> None:
    config = TrainConfig(method="autoactivator", widths=(1.0,))
    with pytest.raises(ConfigError, match="2 processes: autoactivator recruits its units in one"):
        make_trainer(config, few_digits(), CPU, Processes(count=2))
