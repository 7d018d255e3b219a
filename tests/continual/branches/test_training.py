from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from slimkern.continual.branches.network import BranchNet
from slimkern.continual.branches.training import BranchTrainer
from slimkern.continual.config import ConfigError, TrainConfig
from slimkern.continual.methods import config_for, make_method
from slimkern.continual.processes import Processes
from slimkern.continual.trainers import make_trainer
from slimkern.continual.training import train
from slimkern.experiments import run as module
from slimkern.experiments.run import run
from slimkern.experiments.run_folder import RunFolder
from tests.continual.few_digits import Listener, Noting, differences, few_digits, restored

CPU = torch.device("cpu")
SMALL = replace(
    config_for("scl-pnc"), data="digits", tasks=3, first_task_classes=4, class_order="seed", augmentation="shift",
    channels=2, exemplars=40, batch_size=32, epochs=2,
)  # fmt: skip
EASY = {"target": 0.0, "probe_epochs": 1.0}
HARD = {"target": 1.0, "probe_epochs": 1.0}


def told(config: TrainConfig = SMALL, state: dict[str, Any] | None = None) -> Noting:
    listener = Noting()
    train(config, few_digits(), listener, state)
    return listener


@cache
def unbroken() -> Noting:
    return told()


def trainer(config: TrainConfig = SMALL) -> BranchTrainer:
    made = make_trainer(config, few_digits(), CPU)
    assert isinstance(made, BranchTrainer)
    return made


def at(stop: int, config: TrainConfig = SMALL, of: Noting | None = None) -> BranchTrainer:
    made = trainer(config)
    made.load_state_dict(restored((of or unbroken()).checkpoints[stop]))
    return made


def weights(checkpoint: bytes, prefix: str) -> dict[str, torch.Tensor]:
    return {name: own for name, own in restored(checkpoint)["net"].items() if name.startswith(prefix)}


def test_a_run_grows_a_branch_and_columns_a_task() -> None:
    noted = unbroken()
    assert noted.counts is not None and noted.counts.complete and noted.counts.totals == (16, 12, 12)
    assert [(own["branches"], own["columns"], own["reached"]) for own in noted.of("grown")] == [
        (1, 4, None), (2, 7, None), (3, 10, None),
    ]  # fmt: skip
    parts = [set(epoch.losses) for epoch in noted.epochs]
    assert parts == [{"dot regression"}] * 2 + [{"dot regression", "distillation"}, {"dot regression"}] * 2
    assert all(epoch.validation_accuracy is None for epoch in noted.epochs)


def test_frozen_parts_stay_bit_for_bit() -> None:
    after_first, after_second, end = (unbroken().checkpoints[stop] for stop in (2, 5, 8))
    for prefix, before in [
        ("backbone.base.", after_first),
        ("backbone.branches.0.", after_first),
        ("backbone.branches.1.", after_second),
    ]:
        kept = weights(before, prefix)
        assert len(kept) > 20 and not differences(kept, weights(end, prefix))
    assert differences(weights(after_second, "backbone.branches.1."), weights(end, "backbone.branches.2."))


def test_each_task_has_a_new_classifier() -> None:
    frames = [weights(unbroken().checkpoints[stop], "classifiers.0.head.frame") for stop in (2, 5, 8)]
    assert [own["classifiers.0.head.frame"].shape for own in frames] == [(32, 4), (32, 7), (32, 10)]


@pytest.mark.parametrize("stop", range(8))
def test_a_resumed_run_ends_bit_for_bit_the_same(stop: int) -> None:
    torch.manual_seed(stop)
    resumed = told(state=restored(unbroken().checkpoints[stop]))
    assert resumed.counts == unbroken().counts
    assert not differences(restored(unbroken().checkpoints[-1]), restored(resumed.checkpoints[-1]))


def test_a_run_in_a_folder_goes_on_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "load", lambda name, root, download: few_digits())

    class Killing(Listener):
        def epoch_finished(self, summary: Any) -> None:
            if (summary.task, summary.epoch) == (1, 1):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(SMALL, tmp_path, recorders=[Killing()])
    assert run(SMALL, tmp_path) == unbroken().counts
    folder = RunFolder.read(tmp_path)
    assert [event["task"] for event in folder.events() if event["kind"] == "grown"] == [0, 1, 2]
    assert folder.config["model"] == "resnet32-branches" and folder.config["options"]["strength"] == 0.25


@pytest.mark.parametrize(
    ("options", "branches"), [(EASY, [1, 1, 1]), (HARD, [1, 2, 3])], ids=["they suffice", "they do not"]
)
def test_on_demand_a_branch_is_added_where_the_present_ones_do_not_suffice(
    options: dict[str, float], branches: list[int]
) -> None:
    config = replace(SMALL, expand="demand", options=options, epochs=1)
    noted = told(config)
    assert [own["branches"] for own in noted.of("grown")] == branches
    assert [own["reached"] is None for own in noted.of("grown")] == [True, False, False]
    assert all(0 <= own["reached"] <= 1 for own in noted.of("grown")[1:])
    resumed = told(config, restored(noted.checkpoints[2]))
    assert not differences(restored(noted.checkpoints[-1]), restored(resumed.checkpoints[-1]))
    assert resumed.of("grown") == noted.of("grown")[2:]
    backbones = [weights(noted.checkpoints[stop], "backbone.branches.0.") for stop in (1, -1)]
    assert not differences(*backbones)


def test_without_a_new_branch_only_neck_and_head_learn() -> None:
    config = replace(SMALL, expand="demand", options=EASY, epochs=1)
    noted = told(config)
    run_on = at(2, config, noted)
    run_on.task = 1
    run_on._set_optimiser()
    learned = {name for name, own in run_on.net.named_parameters() if own.requires_grad}
    assert learned and all(name.startswith("classifiers.") for name in learned)


def test_the_schedule_of_the_first_task_is_another_one() -> None:
    config = config_for("scl-pnc")
    first, later = ([config.learning_rate_at(epoch, task) for epoch in range(200)] for task in (0, 3))
    assert first == pytest.approx([0.1] * 160 + [0.01] * 20 + [0.001] * 20)
    assert later == pytest.approx([0.1] * 80 + [0.01] * 40 + [0.001] * 30 + [0.0001] * 50)
    assert [config.weight_decay_of(task) for task in (0, 1, 5)] == [5e-4, 2e-4, 2e-4]
    rates = [epoch.learning_rate for epoch in unbroken().epochs]
    assert rates == pytest.approx([0.1, 0.1, 0.1, 0.001, 0.1, 0.001])


def test_gradients_are_clipped_by_parts() -> None:
    run_on = at(3)
    groups = run_on.optimiser._clipped
    names = {id(own): name for name, own in run_on.net.named_parameters()}
    prefixes = [{names[id(own)].rpartition(".blocks")[0] or names[id(own)] for own in group} for group in groups]
    assert prefixes[0] == {"backbone.branches.1"}
    assert prefixes[1] == {"classifiers.0.head.norm.weight", "classifiers.0.head.norm.bias"}
    assert all(name.startswith("classifiers.0.neck.") for name in prefixes[2])
    images, labels = run_on.tasks[1].train.images, run_on.tasks[1].train.labels
    run_on._set_modes()
    loss = run_on._step(run_on.tasks[1], None).losses(images.float() * 1e3, labels, True)  # type: ignore[attr-defined]
    run_on.optimiser._clip = 1e-3
    run_on.optimiser.step(1e3 * sum(loss.values()))
    for group in groups:
        norm = torch.nn.utils.get_total_norm([own.grad for own in group if own.grad is not None])
        assert norm.item() == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("protocol", ["paper", "released"])
def test_the_second_tasks_distillation(protocol: str) -> None:
    run_on = at(3, replace(SMALL, protocol=protocol, options={"columns": 10.0}), unbroken())
    images, labels = run_on.tasks[1].train.images.float() / 255, run_on.tasks[1].train.labels
    for part in run_on.net.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = 0.0
    run_on._set_modes()
    step: Any = run_on._step(run_on.tasks[1], None)  # type: ignore[arg-type]
    net = run_on.net
    assert isinstance(net, BranchNet)
    with torch.no_grad():
        given = step.losses(images, labels, True)["distillation"]
        maps = net.backbone.base(images)
        f0, f1 = (branch(maps) for branch in net.backbone.layers())
    older = f0 + f1 if protocol == "released" else f0
    expected = 0.25 * 0.5 * (F.cosine_similarity(older, f1) - 1).square().sum()
    assert given.item() == pytest.approx(expected.item(), rel=1e-3) and given > 0


def test_released_statistics_of_frozen_parts_drift_and_their_weights_do_not() -> None:
    config = replace(SMALL, protocol="released", tasks=2, first_task_classes=5, epochs=1, options={"columns": 5.0})
    noted = told(config)
    for prefix in ("backbone.base.", "backbone.branches.0."):
        before, after = (weights(noted.checkpoints[stop], prefix) for stop in (1, -1))
        moved = {name.rpartition(".")[2] for name in before if not torch.equal(before[name], after[name])}
        assert moved == {"running_mean", "running_var", "num_batches_tracked"}


def test_released_columns_begin_at_a_hundred() -> None:
    with pytest.raises(ConfigError, match="channels=2 give a neck of 32 outputs, too few for a frame of 106 columns"):
        trainer(replace(SMALL, protocol="released"))


def test_exemplars_fill_the_budget_and_old_sets_are_cut_short() -> None:
    sets = [restored(unbroken().checkpoints[stop])["exemplars"]["trained"] for stop in (2, 5, 8)]
    assert [own["labels"].bincount().tolist() for own in sets] == [[10] * 4, [5] * 7, [4] * 10]
    for earlier, later in pairwise(sets):
        for label in earlier["labels"].unique():
            kept = later["images"][later["labels"] == label]
            assert torch.equal(kept, earlier["images"][earlier["labels"] == label][: len(kept)])


def test_the_released_protocol_does_not_round_exemplars_up() -> None:
    config = replace(SMALL, protocol="released", options={"columns": 4.0})
    assert trainer(config).exemplars.budget.of_class(7, 100) == (5, 0)


def test_the_best_on_test_is_noted_only_if_asked_for() -> None:
    assert not unbroken().of("best on test")
    noted = told(replace(SMALL, best_on_test=True, epochs=6, tasks=2, first_task_classes=5, options={"distilled": 0}))
    assert noted.counts is not None
    first, second = noted.of("best on test")
    assert (first["task"], second["task"]) == (0, 1) and {first["epoch"], second["epoch"]} <= {4, 5}
    for facts in (first, second):
        seen = noted.counts.agnostic[facts["task"], : facts["task"] + 1, 0].sum()
        total = sum(noted.counts.totals[: facts["task"] + 1])
        assert (
            facts["last accuracy"] == pytest.approx(100 * seen / total) and facts["accuracy"] >= facts["last accuracy"]
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widths": (2.0,)}, r"widths=\(2.0,\): scl-pnc has branches and no widths; give --widths 1"),
        ({"search": True}, "search=True: scl-pnc has the rates of its paper"),
        ({"model": "resnet18"}, "model='resnet18': scl-pnc is for resnet32-branches"),
        ({"recompute": True}, "recompute=True: scl-pnc"),
        ({"expand": "never"}, "expand='never' is unknown; allowed: always, demand"),
        ({"first_task_decay_at": (1.5,)}, r"first_task_decay_at=\(1.5,\) must be shares of a task's epochs"),
        ({"first_task_weight_decay": -1.0}, "first_task_weight_decay=-1.0 must lie in 0 to"),
        ({"method": "ft", "model": "resnet18", "expand": "demand"}, "expand='demand' is for method scl-pnc, not ft"),
        ({"method": "ft", "model": "resnet18", "best_on_test": True}, "best_on_test=True is for method scl-pnc"),
        ({"method": "ft"}, "model='resnet32-branches' is for method scl-pnc, not ft"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(SMALL, **changes)


def test_missing_exemplars_and_several_processes_are_refused() -> None:
    with pytest.raises(ConfigError, match="method scl-pnc needs exemplars"):
        make_method(replace(SMALL, exemplars=0))
    with pytest.raises(ConfigError, match="2 processes: scl-pnc trains in one"):
        make_trainer(SMALL, few_digits(), CPU, Processes(count=2))
    with pytest.raises(ConfigError, match="task 0 has 1 columns for 1 classes seen"):
        trainer(replace(SMALL, first_task_classes=1, tasks=4))
