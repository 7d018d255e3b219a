from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from slimkern.continual.config import ConfigError, MethodName, TrainConfig
from slimkern.continual.methods import METHODS, FineTuning, Step
from slimkern.continual.recorder import Silent
from slimkern.continual.tasks import TaskError
from slimkern.continual.training import DivergedError, Trainer, train
from tests.continual.few_digits import TINY, Listener, differences, few_digits, restored

PARTS = {"ft": {"cross-entropy"}, "lwf": {"cross-entropy", "distillation"}, "ewc": {"cross-entropy", "penalty"}}
UNEVEN = (0.25, 0.5, 1.0)
all_methods = pytest.mark.parametrize("method", PARTS)


@cache
def trained(config: TrainConfig) -> Listener:
    listener = Listener()
    train(config, few_digits(), listener)
    return listener


# A configuration holds its options in a dict, so `trained` can't tell it apart by hash.
TrainConfigKey = tuple


def listened(**changes: Any) -> Listener:
    return _listened(tuple(changes.items()))


@cache
def _listened(changes: TrainConfigKey) -> Listener:
    listener = Listener()
    train(replace(TINY, **dict(changes)), few_digits(), listener)
    return listener
