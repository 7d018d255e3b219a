from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from slimkern.continual.config import ConfigError, MethodName
from slimkern.continual.methods import EWC, METHODS
from slimkern.continual.processes import Processes
from slimkern.continual.recorder import Recorder
from slimkern.continual.search import FIRST_RATES, SearchingTrainer, Trial, best_rate, next_trial, rates_to_try
from slimkern.continual.training import train
from slimkern.experiments import run as module
from slimkern.experiments.run import run
from slimkern.experiments.run_folder import RunFolder
from tests.continual.few_digits import TINY, Listener, differences, few_digits, restored

SMALL = replace(TINY, method="ewc", widths=(1.0,), epochs=1, batch_size=16, search=True)


@pytest.mark.parametrize(
    ("first_rate", "expected"),
    [(None, FIRST_RATES), (0.5, (0.1, 0.05, 0.01)), (0.1, (0.05, 0.01, 0.005)), (0.05, (0.01, 0.005, 0.001))],
    ids=str,
)
def test_rates_fall_below_the_first_tasks(first_rate: float | None, expected: tuple[float, ...]) -> None:
    assert rates_to_try(first_rate) == expected


def walked(rates: tuple[float, ...], strength: float | None, answers: list[float]) -> list[Trial]:
    """All trials, where the n-th reaches the n-th accuracy."""
    trials: list[Trial] = []
    while following := next_trial(trials, rates, strength):
        trials.append(Trial(*following, accuracy=answers[len(trials)]))
    return trials


def test_strength_is_halved_until_the_new_task_is_learned_well_enough() -> None:
    trials = walked((0.1, 0.05), 8.0, [70, 90, 10, 71.9, 72, 99])
    assert [(trial.learning_rate, trial.strength) for trial in trials] == [
        (0.1, None), (0.05, None), (0.05, 8), (0.05, 4), (0.05, 2)
    ]  # fmt: skip


def test_the_halving_ends_after_seven_trials() -> None:
    trials = walked((0.1,), 64.0, [90] + [0] * 20)
    assert [trial.strength for trial in trials] == [None, 64, 32, 16, 8, 4, 2, 1]


def test_without_a_strength_only_rates_are_tried_and_the_first_of_equals_wins() -> None:
    trials = walked((0.5, 0.1, 0.05), None, [40, 80, 80])
    assert len(trials) == 3 and best_rate(trials) == 0.1


class OfAnother(Processes):
    def broadcast(self, state: Any) -> Any:
        return 12.5 if isinstance(state, float) else state


def test_all_processes_go_by_the_accuracies_of_the_first() -> None:
    trainer = SearchingTrainer(SMALL, few_digits(), torch.device("cpu"), OfAnother())
    trainer.run(Recorder())
    assert {trial.accuracy for own in trainer.trials.values() for trial in own} == {12.5}


def notes(folder: RunFolder) -> list[dict[str, Any]]:
    return [event for event in folder.events() if event["kind"] == "searched"]


def test_a_run_searches_tells_what_it_found_and_resumes_inside_a_search(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "load", lambda name, root, download: few_digits())
    told = Listener()
    run(SMALL, tmp_path, recorders=[told])
    first, second = notes(RunFolder.read(tmp_path))
    assert [trial["learning_rate"] for trial in first["trials"]] == list(FIRST_RATES)
    assert [trial["strength"] for trial in second["trials"]][:4] == [None, None, None, 10000]
    expected = best_rate([Trial(**trial) for trial in first["trials"]])
    assert told.epochs[0].learning_rate == expected and told.epochs[1].learning_rate < expected
    inside = next(data for data in told.checkpoints if len(restored(data)["trials"].get(1, [])) == 2)
    resumed = Listener()
    train(SMALL, few_digits(), resumed, state=restored(inside))
    assert not differences(restored(told.checkpoints[-1]), restored(resumed.checkpoints[-1]))
    assert len(resumed.checkpoints) == len(told.checkpoints) - told.checkpoints.index(inside) - 1


def test_the_found_strength_is_learned_with_and_trials_leave_the_run_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[float] = []

    class Watched(EWC):
        def after_task(self, *arguments: Any) -> None:
            used.append(self.strength)
            super().after_task(*arguments)

    monkeypatch.setitem(METHODS, "ewc", Watched)
    answers = iter([50, 90, 50, 50, 50, 80, 10, 64])
    searching = SearchingTrainer(SMALL, few_digits(), torch.device("cpu"))
    monkeypatch.setattr(searching, "_accuracy", lambda *arguments: next(answers))
    end, plain_end = Listener(), Listener()
    searching.run(end)
    assert used == [5000, 5000]
    assert [epoch.learning_rate for epoch in end.epochs] == [0.1, 0.005]
    train(replace(SMALL, search=False, learning_rate=0.1), few_digits(), plain_end)
    task_ends = [
        next(state for state in map(restored, told.checkpoints) if state["task"] == 1) for told in (end, plain_end)
    ]
    assert not differences(task_ends[0]["net"], task_ends[1]["net"])


def test_a_trial_that_diverges_reaches_nothing() -> None:
    searching = SearchingTrainer(SMALL, few_digits(), torch.device("cpu"))
    start = searching.state_dict()
    assert searching._accuracy(start, 1e9, None) == 0
    assert 0 < searching._accuracy(start, 0.05, None) <= 100


def test_searching_without_held_out_images_is_refused() -> None:
    with pytest.raises(ConfigError, match="holds out none"):
        train(replace(SMALL, validation=0.0), few_digits())


@pytest.mark.parametrize("method", ["lucir", "bic", "freezing"])
def test_methods_with_networks_and_images_of_their_own_are_searched_too(method: MethodName) -> None:
    exemplars = 0 if method == "freezing" else 40
    config = replace(SMALL, method=method, exemplars=exemplars)
    searching = SearchingTrainer(config, few_digits(), torch.device("cpu"))
    told = Listener()
    searching.run(told)
    assert [len(own) for own in searching.trials.values()] == [3, 3]
    assert searching.counts.complete and told.epochs[1].learning_rate == best_rate(searching.trials[1])
