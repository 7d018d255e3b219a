from __future__ import annotations

from dataclasses import replace

import pytest

from slimkern.continual import training
from slimkern.continual.training import train
from tests.continual.branches.test_training import SMALL
from tests.continual.few_digits import Listener, differences, few_digits, restored
from tests.continual.test_readbacks import readbacks
from tests.continual.test_training_steps import logged
from tests.logged_graphs import LoggedGraphs

TWO_TASKS = replace(SMALL, tasks=2, first_task_classes=5, batch_size=16)


def test_a_run_of_recorded_steps_ends_where_an_eager_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    eager, recorded = Listener(), Listener()
    train(TWO_TASKS, few_digits(), eager, eager=True)
    LoggedGraphs.log.clear()
    monkeypatch.setattr(training, "capture", logged)
    train(TWO_TASKS, few_digits(), recorded)
    assert not differences(restored(eager.checkpoints[-1]), restored(recorded.checkpoints[-1]))
    # Batches of 50 images, then of 90, of which the last is shorter; the second task's epochs differ in distillation.
    assert LoggedGraphs.log.count("recorded") >= 3 and "refused" not in LoggedGraphs.log
    assert "replayed" in LoggedGraphs.log and {epoch.eager_because for epoch in recorded.epochs} == {None}


def test_no_step_reads_back_from_the_device() -> None:
    found = []
    for size in (45, 15):
        with readbacks() as seen:
            train(replace(TWO_TASKS, batch_size=size, epochs=1), few_digits(), eager=True)
        found.append(+seen)
    assert found[0].total() > 0 and found[0] == found[1]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_runs_in_half_precision(precision: str) -> None:
    told = Listener()
    train(replace(TWO_TASKS, precision=precision, epochs=1), few_digits(), told)
    assert told.counts is not None and told.counts.complete
