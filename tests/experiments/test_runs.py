from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from slimkern.continual.metrics import Counts, average_accuracy
from slimkern.experiments.run_folder import RunFolder
from slimkern.experiments.runs import Run, group_by_seed, read_runs

FOUR = [0.25, 0.5, 0.75, 1.0]


def run(correct: int = 5, finished: int = 1, **config: Any) -> Run:
    config = {"method": "ewc", "widths": [1.0], "tasks": 2, "seed": 0} | config
    counts = Counts.empty(tuple(config["widths"]), (10, 10))
    for seen in range(1, finished + 1):
        row = np.full((seen, len(counts.widths)), correct)
        counts = counts.with_row(row, row)
    return Run(f"run-{config['seed']}", config, counts if finished else None)


def labels(*runs: Run) -> list[str]:
    return [group.label for group in group_by_seed(runs)]


@pytest.mark.parametrize(
    ("config", "label"),
    [
        ({}, "EWC"),
        ({"widths": FOUR}, "EWC · ScrollNet-4"),
        ({"widths": [0.3, 1.0]}, "EWC · ScrollNet 0.3/1"),
        ({"method": "icarl"}, "iCaRL"),
        ({"method": "mine"}, "mine"),
    ],
)
def test_label_of_one_run(config: dict[str, Any], label: str) -> None:
    assert labels(run(**config)) == [label]


def test_labels_tell_only_what_differs() -> None:
    short, long = (run(epochs=epochs, model="resnet18") for epochs in (100, 200))
    assert labels(short, long) == ["EWC · epochs 100", "EWC · epochs 200"]


def test_options_are_compared_inside_their_method() -> None:
    strong, weak = run(options={"strength": 9.0}), run(options={"strength": 1.0})
    assert labels(strong, run(method="lwf", options={"temperature": 2})) == ["EWC", "LwF"]
    assert labels(strong, weak) == ["EWC · strength 9.0", "EWC · strength 1.0"]


def test_the_scroll_step_of_a_plain_network_means_nothing() -> None:
    assert labels(run(scroll_step=0), run(widths=FOUR, scroll_step=1)) == ["EWC", "EWC · ScrollNet-4"]
    still, scrolling = run(widths=FOUR, scroll_step=0), run(widths=FOUR, scroll_step=1)
    assert labels(still, scrolling) == ["EWC · ScrollNet-4 · scroll step 0", "EWC · ScrollNet-4 · scroll step 1"]


def test_seeds_are_grouped_and_measured_together() -> None:
    (group,) = group_by_seed([run(correct=4, seed=0), run(correct=6, seed=1)])
    np.testing.assert_allclose(group.measure(lambda counts: average_accuracy(counts, "aware")), [[40], [60]])


def test_an_unfinished_run_is_not_mixed_with_finished_ones() -> None:
    groups = group_by_seed([run(finished=2, seed=0), run(finished=1, seed=1), run(finished=0, seed=2)])
    assert [group.status for group in groups] == ["2", "1 of 2, unfinished", "0 of 2, unfinished"]
    assert groups[2].measure(lambda counts: average_accuracy(counts, "aware")[-1]).size == 0


def test_the_same_run_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="run-0 and run-0 have one configuration and seed 0"):
        group_by_seed([run(), run()])


def test_runs_are_read_from_their_folders(tmp_path: Any) -> None:
    with RunFolder.open(tmp_path / "mine", {"seed": 3}):
        (found,) = read_runs([tmp_path / "mine"])
    assert (found.name, found.config, found.counts, found.complete) == ("mine", {"seed": 3}, None, False)
