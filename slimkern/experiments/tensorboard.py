"""A recorder for TensorBoard, from the extra slimkern[tensorboard]."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slimkern.continual.metrics import Counts, average_accuracy
from slimkern.continual.recorder import EpochSummary, Plan, Recorder
from slimkern.experiments.optional import load_extra


class TensorBoardRecorder(Recorder):
    """Writes losses by epoch and average accuracies by task to an event file below `path`.

    Epochs are counted through the whole run. A resumed run hides what an earlier one wrote beyond its checkpoint.

    Raises:
        ImportError: if TensorBoard isn't installed.
    """

    def __init__(self, path: Path) -> None:
        self._open_writer = load_extra("torch.utils.tensorboard", extra="tensorboard").SummaryWriter
        self._path = path
        self._writer: Any = None
        self._epochs_per_task = 0

    def started(self, plan: Plan, task: int, epoch: int) -> None:
        """Opens the event file."""
        self._epochs_per_task = plan.epochs
        self._writer = self._open_writer(str(self._path), purge_step=task * plan.epochs + epoch)

    def epoch_finished(self, summary: EpochSummary) -> None:
        """Writes the losses, the learning rate and the validation accuracy."""
        scalars = {"loss": summary.loss, "learning rate": summary.learning_rate}
        scalars |= {f"losses/{name}": value for name, value in summary.losses.items()}
        if summary.validation_accuracy is not None:
            scalars["validation accuracy"] = summary.validation_accuracy
        self._write(scalars, step=summary.task * self._epochs_per_task + summary.epoch)

    def task_finished(self, task: int, counts: Counts) -> None:
        """Writes the average accuracy of every width, in both settings, at the task's last epoch."""
        scalars = {
            f"average accuracy, task-{setting}/width {width:g}": average_accuracy(counts, setting, width)[-1]
            for setting in ("aware", "agnostic")
            for width in counts.widths
        }
        self._write(scalars, step=(task + 1) * self._epochs_per_task - 1)

    def checkpoint(self, state: dict[str, Any]) -> None:
        """Sees what was written to the disk."""
        self._writer.flush()

    def finished(self, counts: Counts) -> None:
        """Closes the event file."""
        self._writer.close()

    def _write(self, scalars: dict[str, float], step: int) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)
