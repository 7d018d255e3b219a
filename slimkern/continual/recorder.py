"""What the trainer tells whoever listens.

The trainer is handed a `Recorder` and knows nothing of folders, terminals or plots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from slimkern.continual.metrics import Counts


@dataclass(frozen=True)
class Plan:
    """What a run is going to do.

    Args:
        tasks: classes per task.
        epochs: epochs per task.
        steps: steps per epoch, for each task.
        widths: ascending widths, the last one 1.0.
        parameters: trainable parameters of the whole network before the first task.
    """

    tasks: tuple[int, ...]
    epochs: int
    steps: tuple[int, ...]
    widths: tuple[float, ...]
    parameters: int

    def __post_init__(self) -> None:
        if len(self.steps) != len(self.tasks):
            raise ValueError(f"steps names {len(self.steps)} tasks and tasks {len(self.tasks)}; they must be as many")


@dataclass(frozen=True)
class EpochSummary:
    """One epoch in numbers.

    Args:
        task: index of the task, from 0.
        epoch: index of the epoch inside its task, from 0.
        loss: mean loss of the epoch.
        losses: mean of each named part of the loss.
        learning_rate: the rate that the epoch was trained with.
        validation_accuracy: percent, or None without a validation set.
        seconds: duration of the epoch.
        peak_memory: bytes of the device's memory, or on a CPU of the process's, that were in use at most in its steps.
        eager_because: why the steps of this epoch weren't replayed from a recording; None if they were.
    """

    task: int
    epoch: int
    loss: float
    losses: dict[str, float]
    learning_rate: float
    validation_accuracy: float | None
    seconds: float
    peak_memory: int | None = None
    eager_because: str | None = None


class Recorder:
    """Listens to a training run; this one ignores all it hears."""

    def started(self, plan: Plan, task: int, epoch: int) -> None:
        """The run begins with this task and epoch; they are beyond (0, 0) when it is resumed."""

    def step_launched(self, task: int, epoch: int, steps: int) -> None:
        """So many steps of an epoch have been launched; on a GPU they may not be done. Called often: be quick."""

    def epoch_finished(self, summary: EpochSummary) -> None:
        """An epoch has been trained."""

    def task_finished(self, task: int, counts: Counts) -> None:
        """A task has been learned and every task seen so far evaluated; the counts are those of the whole run."""

    def noted(self, kind: str, facts: dict[str, Any]) -> None:
        """Something worth keeping, as plain values: the scroll of a task, say."""

    def checkpoint(self, state: dict[str, Any]) -> None:
        """Here is all that is needed to go on. Comes after each `epoch_finished` and each `task_finished`."""

    def finished(self, counts: Counts) -> None:
        """The run is complete."""


class Several(Recorder):
    """Passes on all it hears to each of its recorders, in their order."""

    def __init__(self, recorders: Sequence[Recorder]) -> None:
        self.recorders = tuple(recorders)

    def started(self, plan: Plan, task: int, epoch: int) -> None:
        """Tells each recorder."""
        for recorder in self.recorders:
            recorder.started(plan, task, epoch)

    def step_launched(self, task: int, epoch: int, steps: int) -> None:
        """Tells each recorder."""
        for recorder in self.recorders:
            recorder.step_launched(task, epoch, steps)

    def epoch_finished(self, summary: EpochSummary) -> None:
        """Tells each recorder."""
        for recorder in self.recorders:
            recorder.epoch_finished(summary)

    def task_finished(self, task: int, counts: Counts) -> None:
        """Tells each recorder."""
        for recorder in self.recorders:
            recorder.task_finished(task, counts)

    def noted(self, kind: str, facts: dict[str, Any]) -> None:
        """Tells each recorder."""
        for recorder in self.recorders:
            recorder.noted(kind, facts)

    def checkpoint(self, state: dict[str, Any]) -> None:
        """Tells each recorder."""
        for recorder in self.recorders:
            recorder.checkpoint(state)

    def finished(self, counts: Counts) -> None:
        """Tells each recorder."""
        for recorder in self.recorders:
            recorder.finished(counts)
