from __future__ import annotations

import io
from dataclasses import replace
from typing import cast

import pytest
from rich.console import Console

from slimkern.continual.metrics import Counts
from slimkern.continual.recorder import EpochSummary, Plan
from slimkern.experiments.progress import Pace, ProgressRecorder, duration

PLAN = Plan(tasks=(10, 10), epochs=2, steps=(100, 300), widths=(0.5, 1.0), parameters=11_200_000)
COUNTS = Counts.empty((1.0,), (10, 10)).with_row([[8]], [[7]])


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def summary(task: int, epoch: int, validation: float | None = 51.25, peak: int | None = None) -> EpochSummary:
    return EpochSummary(task, epoch, 1.25, {}, 0.1, validation, 10.0, peak)


def test_time_left_counts_steps_and_not_epochs() -> None:
    clock = Clock()
    pace = Pace(PLAN, 0, 0, clock)
    clock.now += 10
    # 100 of 2 * 100 + 2 * 300 steps took ten seconds.
    assert pace.seconds_left(0, 1) == pytest.approx(70)
    assert pace.seconds_left(1, 2) == 0


def test_time_left_of_a_resumed_run_counts_only_its_own_steps() -> None:
    clock = Clock()
    pace = Pace(PLAN, 1, 0, clock)
    clock.now += 30
    assert pace.seconds_left(1, 1) == pytest.approx(30)
    assert pace.seconds_spent() == 30


def test_without_a_terminal_one_unbroken_line_an_epoch() -> None:
    clock, file = Clock(), io.StringIO()
    with ProgressRecorder(Console(file=file, width=40), clock) as progress:
        progress.started(PLAN, 0, 0)
        clock.now += 10
        progress.epoch_finished(summary(0, 0))
        progress.checkpoint({})
        progress.epoch_finished(summary(0, 1, validation=None, peak=1234567890))
        progress.task_finished(0, COUNTS)
        progress.finished(COUNTS)
    assert file.getvalue().splitlines() == [
        "2 tasks, 20 classes, 2 epochs a task, widths 0.5, 1, 11.20 M parameters",
        "task 1/2  epoch 1/2  loss 1.2500  validation 51.2 %  10.00 s/epoch  1 min 10 s left",
        "task 1/2  epoch 2/2  loss 1.2500  10.00 s/epoch  1235 MB  30 s left",
        "task 1/2 learned: average accuracy 70.00 % task-agnostic, 80.00 % task-aware",
        "finished after 10 s",
    ]


def test_a_resumed_run_says_where_it_goes_on() -> None:
    file = io.StringIO()
    ProgressRecorder(Console(file=file)).started(PLAN, 1, 1)
    assert "resumed after 1 of 2 tasks, 1 of 2 epochs of the next" in file.getvalue()


def test_a_terminal_gets_a_live_line_and_its_cursor_back() -> None:
    hide, show = "\x1b[?25l", "\x1b[?25h"
    clock, file = Clock(), io.StringIO()
    console = Console(file=file, force_terminal=True, width=120)
    with pytest.raises(KeyboardInterrupt), ProgressRecorder(console, clock) as progress:
        progress.started(PLAN, 0, 0)
        clock.now += 10
        progress.epoch_finished(summary(0, 0))
        progress.task_finished(0, COUNTS)
        raise KeyboardInterrupt
    assert "1 min 10 s left" in file.getvalue()
    assert file.getvalue().count(hide) == file.getvalue().count(show) == 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (3600, "1 h 00 min"), (18_180, "5 h 03 min")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_steps_that_are_not_recorded_are_told_once() -> None:
    console = Console(file=io.StringIO(), width=200)
    recorder = ProgressRecorder(console)
    recorder.started(PLAN, 0, 0)
    for epoch in range(2):
        recorder.epoch_finished(replace(summary(0, epoch), eager_because="its loss is read back"))
    said = cast(io.StringIO, console.file).getvalue()
    assert said.count("steps run eagerly, none is recorded: its loss is read back\n") == 1
