"""A recorder that shows how far a run is and how long it will take."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

from slimkern.continual.metrics import Counts, average_accuracy
from slimkern.continual.recorder import EpochSummary, Plan, Recorder


class Pace:
    """Time left of a run, from the steps done since it was started or resumed.

    Counts wall-clock time, so that evaluation and the work between tasks are in it.
    """

    def __init__(self, plan: Plan, task: int, epoch: int, clock: Callable[[], float]) -> None:
        self._plan = plan
        self._clock = clock
        self._began = clock()
        self._steps_before = self.steps_until(task, epoch)

    def seconds_left(self, task: int, epochs_done: int) -> float:
        """Seconds until the end, when so many epochs of this task are done."""
        done = self.steps_until(task, epochs_done)
        left = self.steps_until(len(self._plan.steps), 0) - done
        return (self._clock() - self._began) / max(done - self._steps_before, 1) * left

    def seconds_spent(self) -> float:
        """Seconds since the run was started or resumed."""
        return self._clock() - self._began

    def steps_until(self, task: int, epoch: int) -> int:
        """Steps of the run before this task and epoch."""
        whole_tasks = sum(self._plan.steps[:task]) * self._plan.epochs
        return whole_tasks + (self._plan.steps[task] * epoch if epoch else 0)


class ProgressRecorder(Recorder):
    """Shows a live line on a terminal, and prints one line an epoch where there is none.

    A context manager, so that the terminal is left in order when a run is interrupted.

    Args:
        console: where to write; standard output by default.
        clock: seconds that only ever grow.
    """

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console or Console()
        self._clock = clock
        self._live: Progress | None = None
        self._eager_because: str | None = None
        self._line = TaskID(0)

    def __enter__(self) -> ProgressRecorder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends the live line."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def started(self, plan: Plan, task: int, epoch: int) -> None:
        """Says what is going to happen, and where a resumed run goes on."""
        self._plan = plan
        self._pace = Pace(plan, task, epoch, self._clock)
        widths = ", ".join(f"{width:g}" for width in plan.widths)
        self._print(
            f"{len(plan.tasks)} tasks, {sum(plan.tasks)} classes, {plan.epochs} epochs a task, "
            f"widths {widths}, {plan.parameters / 1e6:.2f} M parameters"
        )
        if (task, epoch) > (0, 0):
            self._print(f"resumed after {task} of {len(plan.tasks)} tasks, {epoch} of {plan.epochs} epochs of the next")
        if self._console.is_terminal:
            columns = SpinnerColumn(), BarColumn(bar_width=24), TextColumn("{task.description}", markup=False)
            self._live = Progress(*columns, console=self._console, transient=True)
            total = self._pace.steps_until(len(plan.tasks), 0)
            done = self._pace.steps_until(task, epoch)
            self._line = self._live.add_task("first epoch", total=total, completed=done)
            self._live.start()

    def step_launched(self, task: int, epoch: int, steps: int) -> None:
        """Moves the live line on."""
        if self._live is not None:
            self._live.update(self._line, completed=self._pace.steps_until(task, epoch) + steps)

    def epoch_finished(self, summary: EpochSummary) -> None:
        """Shows the epoch and the time left, and why steps aren't recorded once that is known."""
        plan = self._plan
        if summary.eager_because not in (None, self._eager_because):
            self._eager_because = summary.eager_because
            self._print(f"steps run eagerly, none is recorded: {summary.eager_because}")
        validation = summary.validation_accuracy
        parts = [
            f"task {summary.task + 1}/{len(plan.tasks)}",
            f"epoch {summary.epoch + 1}/{plan.epochs}",
            f"loss {summary.loss:.4f}",
            *([] if validation is None else [f"validation {validation:.1f} %"]),
            f"{summary.seconds:.2f} s/epoch",
            *([] if summary.peak_memory is None else [f"{summary.peak_memory / 1e6:.0f} MB"]),
            f"{duration(self._pace.seconds_left(summary.task, summary.epoch + 1))} left",
        ]
        if self._live is None:
            self._print("  ".join(parts))
        else:
            self._live.update(self._line, description="  ".join(parts))

    def task_finished(self, task: int, counts: Counts) -> None:
        """Prints the average accuracies at width 1.0."""
        agnostic, aware = (average_accuracy(counts, setting)[-1] for setting in ("agnostic", "aware"))
        self._print(
            f"task {task + 1}/{len(self._plan.tasks)} learned: average accuracy "
            f"{agnostic:.2f} % task-agnostic, {aware:.2f} % task-aware"
        )

    def finished(self, counts: Counts) -> None:
        """Ends the live line and says how long it took."""
        self.close()
        self._print(f"finished after {duration(self._pace.seconds_spent())}")

    def _print(self, line: str) -> None:
        # Without soft_wrap rich breaks the lines of a log file at 80 columns.
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """Seconds as people say them, for example "45 s", "3 min 20 s" or "5 h 03 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
