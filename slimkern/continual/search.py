"""Search of the learning rate and of a method's strength for each task, on its held-out images.

The protocol of FACIL's survey (Masana et al. 2022, after De Lange et al. 2021), which sees no image of another task:

1. The learning rate is the one by which plain fine-tuning reaches the best task-aware validation accuracy. The first
   task tries 0.5, 0.1 and 0.05; later ones the three largest of 0.1, 0.05, 0.01, 0.005 and 0.001 below the first
   task's.
2. From the second task on the method starts at a strength that allows little change, halved as long as its validation
   accuracy is below 0.8 times that of fine-tuning, for at most seven trials; the last one's value is used. Methods
   without such a strength skip this.

Each trial trains the whole task, under the configuration's schedule; the task is then trained with what was found.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, replace
from typing import Any

from slimkern.continual.config import ConfigError, TrainConfig
from slimkern.continual.data import Dataset
from slimkern.continual.methods import FineTuning, Method
from slimkern.continual.recorder import EpochSummary, Recorder
from slimkern.continual.tasks import Task
from slimkern.continual.training import DivergedError, State, Trainer

FIRST_RATES = (0.5, 0.1, 0.05)
LATER_RATES = (0.1, 0.05, 0.01, 0.005, 0.001)
STRENGTHS = {"lwf": 10.0, "ewc": 10000.0, "mas": 400.0, "icarl": 4.0}
"""FACIL's first strength of each method that has one."""
TOLERANCE, DECAY, MOST_TRIALS = 0.2, 0.5, 7


@dataclass(frozen=True)
class Trial:
    """One training of a task.

    Attributes:
        learning_rate: at the task's start.
        strength: of the method; None for fine-tuning.
        accuracy: task-aware validation accuracy at width 1.0 in the end, in percent; 0 if the training diverged.
    """

    learning_rate: float
    strength: float | None
    accuracy: float


class SearchingTrainer(Trainer):
    """A trainer that searches before each task. A run killed in between goes on with the next trial.

    Attributes:
        trials: those of each task, in order.

    Raises:
        ConfigError: no images are held out.
    """

    def __init__(self, config: TrainConfig, dataset: Dataset, *placement: Any) -> None:
        if not config.validation:
            raise ConfigError("search=True compares on held-out images, and validation=0 holds out none")
        super().__init__(config, dataset, *placement)
        self._given, self._rest = config, (dataset, *placement)
        self.trials: dict[int, list[Trial]] = {}

    def state_dict(self) -> State:
        """As of any trainer, and the trials."""
        trials = {task: [list(astuple(trial)) for trial in own] for task, own in self.trials.items()}
        return {**super().state_dict(), "trials": trials}

    def load_state_dict(self, state: State) -> None:
        """Go on from a state given by `state_dict`."""
        super().load_state_dict(state)
        self.trials = {task: [Trial(*trial) for trial in own] for task, own in state["trials"].items()}

    def _learn(self, task: Task, recorder: Recorder) -> None:
        trials = self.trials.setdefault(task.index, [])
        first_rate = best_rate(self.trials[0]) if task.index else None
        rates, strength = rates_to_try(first_rate), STRENGTHS.get(self._given.method) if task.index else None
        if self.epoch == 0:
            start = super().state_dict()
            while following := next_trial(trials, rates, strength):
                trials.append(Trial(*following, accuracy=self._accuracy(start, *following)))
                recorder.checkpoint(self.state_dict())
            recorder.noted("searched", {"task": task.index, "trials": [vars(trial) for trial in trials]})
        self.config = replace(self._given, learning_rate=best_rate(trials))
        _set_strength(self.method, trials[-1].strength)
        super()._learn(task, recorder)

    def _accuracy(self, start: State, rate: float, strength: float | None) -> float:
        """What a trainer of its own reaches on the present task."""
        other = Trainer(replace(self._given, learning_rate=rate), *self._rest)
        other.load_state_dict(copy.deepcopy(start))
        if strength is None:
            other.method = FineTuning()
        _set_strength(other.method, strength)
        end = _EndOfTask(self._given.epochs)
        with suppress(_EndOfTaskError, DivergedError):
            other.run(end)
        # Rounding may differ between processes, and what is tried next may not.
        return self.processes.broadcast(end.accuracy)


def rates_to_try(first_rate: float | None) -> tuple[float, ...]:
    """Learning rates for the first task, or given the one found for that, for a later one."""
    return FIRST_RATES if first_rate is None else tuple(rate for rate in LATER_RATES if rate < first_rate)[:3]


def next_trial(
    trials: Sequence[Trial], rates: Sequence[float], strength: float | None
) -> tuple[float, float | None] | None:
    """What to try after these trials: learning rate and strength, which is None for fine-tuning; None at the end.

    Args:
        trials: of this task so far, in order.
        rates: learning rates to fine-tune with.
        strength: the method's first strength; None if it has none or this is the first task.
    """
    if len(trials) < len(rates):
        return rates[len(trials)], None
    tried = trials[len(rates) :]
    reached = max(trial.accuracy for trial in trials[: len(rates)])
    enough = tried and tried[-1].accuracy >= (1 - TOLERANCE) * reached
    if strength is None or enough or len(tried) == MOST_TRIALS:
        return None
    return best_rate(trials), strength * DECAY ** len(tried)


def best_rate(trials: Sequence[Trial]) -> float:
    """The learning rate by which fine-tuning was best, the first of equals."""
    return max((trial for trial in trials if trial.strength is None), key=lambda trial: trial.accuracy).learning_rate


def _set_strength(method: Method, strength: float | None) -> None:
    if strength is not None:
        vars(method)["strength"] = strength


class _EndOfTaskError(Exception):
    """Ends a trial."""


class _EndOfTask(Recorder):
    """Keeps the validation accuracy after the last epoch of a task and ends the run there."""

    def __init__(self, epochs: int) -> None:
        self._epochs, self.accuracy = epochs, 0.0

    def epoch_finished(self, summary: EpochSummary) -> None:
        if summary.epoch == self._epochs - 1:
            self.accuracy = summary.validation_accuracy or 0.0
            raise _EndOfTaskError
