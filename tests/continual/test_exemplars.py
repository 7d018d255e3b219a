from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from slimkern.continual.config import ConfigError, TrainConfig
from slimkern.continual.data import ImageSet
from slimkern.continual.data.augment import Augmentation
from slimkern.continual.exemplars import Budget, Exemplars, class_sizes
from slimkern.continual.network import ContinualNet
from slimkern.continual.selection import SelectionName, select
from slimkern.continual.tasks import Task, build_tasks
from slimkern.models import resnet18
from slimkern.nn import scroll_to
from slimkern.widths import Widths
from tests.continual.few_digits import few_digits, restored, stored

NORMALISE = Augmentation.named("none", (0.3,), (0.4,)).normalise
EACH = 12
"""Training images of a class."""


@pytest.fixture(scope="module")
def tasks() -> tuple[Task, ...]:
    return build_tasks(few_digits(train=EACH), tasks=5, validation=0.0)


@pytest.fixture(scope="module")
def net() -> ContinualNet:
    torch.manual_seed(0)
    net = ContinualNet(resnet18(None, Widths.of(4), in_channels=1, channels=4), Widths.of(4))
    for _ in range(5):
        net.add_head(2)
    scroll_to(net, task=3)
    return net.train()


def after(tasks: tuple[Task, ...], net: ContinualNet, budget: Budget, rule: SelectionName = "herding") -> Exemplars:
    exemplars = Exemplars(budget, tasks[0].train)
    for task in tasks:
        exemplars.update(task, net, rule, NORMALISE)
    return exemplars


def pictures(images: ImageSet) -> list[tuple[int, bytes]]:
    """Labels and images as values that can be told apart."""
    return [
        (label, picture.numpy().tobytes()) for label, picture in zip(images.labels.tolist(), images.images, strict=True)
    ]


def test_old_classes_may_keep_their_first_ones_instead_of_being_chosen_again(
    tasks: tuple[Task, ...], net: ContinualNet
) -> None:
    exemplars = Exemplars(Budget(total=40), tasks[0].train)
    exemplars.update(tasks[0], net, "herding", NORMALISE, truncate=True)
    before = pictures(exemplars.trained)
    exemplars.update(tasks[1], net, "random", NORMALISE, truncate=True)
    after_second = pictures(exemplars.trained)
    for label in range(2):
        kept, had = ([own for own in found if own[0] == label] for found in (after_second, before))
        assert len(kept) == 10 and kept == had[:10]
    assert [own[0] for own in after_second].count(3) == 10


@given(total=st.integers(1, 5000), classes=st.integers(1, 200), share=st.sampled_from([0.0, 0.1, 0.5]))
def test_the_total_is_never_exceeded_unless_rounded_up(total: int, classes: int, share: float) -> None:
    down, up = (Budget(total, 0, share, rounding).of_class(classes, smallest=10**9) for rounding in (False, True))
    assert sum(down) == total // classes and sum(up) == -(-total // classes)
    assert down[1] == math.ceil(share * sum(down))


def test_budgets_by_hand() -> None:
    assert Budget(total=2000).of_class(60, smallest=500) == (33, 0)
    assert Budget(total=2000, round_up=True).of_class(60, smallest=500) == (34, 0)
    assert Budget(total=2000, held_out_share=0.1).of_class(100, smallest=500) == (18, 2)
    assert Budget(per_class=20).of_class(60, smallest=500) == (20, 0)
    assert Budget(per_class=20, held_out_share=0.1).of_class(3, smallest=500) == (18, 2)
    assert Budget(total=1000, held_out_share=0.1).of_class(2, smallest=40) == (36, 4)
    assert Budget().of_class(10, smallest=500) == (0, 0)
    assert not Budget() and Budget(total=1) and Budget(per_class=1)


def test_a_configuration_gives_its_budget() -> None:
    assert Budget.of(TrainConfig(exemplars=200), 0.1) == Budget(200, 0, 0.1)
    assert Budget.of(TrainConfig(exemplars_per_class=20, protocol="released"), 0) == Budget(0, 20, 0, round_up=True)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (Budget(total=121), "exemplars=121 is more than the 120 training images of this run"),
        (Budget(per_class=13), "exemplars_per_class=13 is more than the 12 training images of the smallest class"),
        (Budget(total=9), "exemplars=9 leaves 0 of each of 10 classes to train on and 0 held out"),
        (
            Budget(total=19, held_out_share=0.1),
            "exemplars=19 leaves 0 of each of 10 classes to train on and 1 held out",
        ),
    ],
    ids=["total", "per class", "fewer than classes", "nothing but held out"],
)
def test_a_budget_that_the_images_do_not_fit_is_refused(tasks: tuple[Task, ...], budget: Budget, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}$"):
        budget.check([size for task in tasks for size in class_sizes(task)])


@pytest.mark.parametrize("budget", [Budget(), Budget(total=120), Budget(per_class=12), Budget(total=10)], ids=str)
def test_a_budget_that_fits_is_taken(tasks: tuple[Task, ...], budget: Budget) -> None:
    budget.check([size for task in tasks for size in class_sizes(task)])


@pytest.mark.parametrize("rule", ["herding", "random", "entropy", "distance"])
def test_each_class_keeps_its_part_of_the_budget(
    tasks: tuple[Task, ...], net: ContinualNet, rule: SelectionName
) -> None:
    exemplars = Exemplars(Budget(total=43), tasks[0].train)
    for task, each in zip(tasks, (12, 10, 7, 5, 4), strict=True):
        exemplars.update(task, net, rule, NORMALISE)
        seen = pictures(ImageSet.joined([seen.train for seen in tasks[: task.index + 1]]))
        kept = pictures(exemplars.trained)
        assert exemplars.trained.labels.bincount().tolist() == [each] * task.classes.stop
        assert len(set(kept)) == len(kept) and set(kept) <= set(seen)
        assert len(exemplars.held_out) == 0


def test_old_classes_choose_again_among_what_they_kept(tasks: tuple[Task, ...], net: ContinualNet) -> None:
    exemplars = Exemplars(Budget(total=20), tasks[0].train)
    exemplars.update(tasks[0], net, "herding", NORMALISE)
    before = exemplars.trained.select(exemplars.trained.labels == 1)
    exemplars.update(tasks[1], net, "herding", NORMALISE)
    features = net.eval().backbone(NORMALISE(before.images))
    chosen = select("herding", features, features, 1, 5)
    after = exemplars.trained.select(exemplars.trained.labels == 1)
    assert pictures(after) == pictures(before.select(chosen))


def test_images_are_chosen_by_the_networks_own_answers(tasks: tuple[Task, ...], net: ContinualNet) -> None:
    exemplars = Exemplars(Budget(per_class=3), tasks[0].train)
    exemplars.update(tasks[0], net, "distance", NORMALISE)
    own = tasks[0].train.select(tasks[0].train.labels == 1)
    logits = net.eval()(NORMALISE(own.images))
    assert isinstance(logits, Tensor)
    order = sorted(range(EACH), key=logits[:, 1].tolist().__getitem__)
    assert pictures(exemplars.trained)[3:] == [pictures(own)[at] for at in order[:3]]


def test_held_out_images_are_the_first_of_each_class_and_never_trained_on(
    tasks: tuple[Task, ...], net: ContinualNet
) -> None:
    exemplars = Exemplars(Budget(per_class=10, held_out_share=0.25), tasks[0].train)
    for task in tasks:
        train, held_out = exemplars.split(task)
        assert sorted(pictures(train) + pictures(held_out)) == sorted(pictures(task.train))
        for label in task.classes:
            own = task.train.select(task.train.labels == label)
            assert pictures(held_out.select(held_out.labels == label)) == pictures(own)[:3]
        exemplars.update(task, net, "herding", NORMALISE)
        assert exemplars.trained.labels.bincount().tolist() == [7] * task.classes.stop
        assert exemplars.held_out.labels.bincount().tolist() == [3] * task.classes.stop
        assert not set(pictures(exemplars.trained)) & set(pictures(exemplars.held_out))


def test_held_out_images_grow_fewer_with_the_classes(tasks: tuple[Task, ...], net: ContinualNet) -> None:
    exemplars = after(tasks, net, Budget(total=40, held_out_share=0.5))
    assert exemplars.trained.labels.bincount().tolist() == exemplars.held_out.labels.bincount().tolist() == [2] * 10


@pytest.mark.parametrize("share", [0.0, 0.25])
@pytest.mark.parametrize(("total", "per_class"), [(0, 0), (43, 0), (0, 4)], ids=["none", "total", "per class"])
def test_training_sizes_are_foretold(
    tasks: tuple[Task, ...], net: ContinualNet, total: int, per_class: int, share: float
) -> None:
    exemplars, sizes = Exemplars(Budget(total, per_class, share), tasks[0].train), []
    foretold = exemplars.training_sizes(tasks)
    for task in tasks:
        sizes.append(len(exemplars.split(task)[0]) + len(exemplars.trained))
        if exemplars.budget:
            exemplars.update(task, net, "random", NORMALISE)
    assert foretold == sizes


def test_they_are_bytes_and_come_back_from_a_checkpoint(tasks: tuple[Task, ...], net: ContinualNet) -> None:
    budget = Budget(total=40, held_out_share=0.2)
    exemplars, loaded = after(tasks, net, budget), Exemplars(budget, tasks[0].train)
    assert exemplars.trained.images.dtype == torch.uint8
    loaded.load_state_dict(restored(stored(exemplars.state_dict())))
    for name, count in (("trained", 30), ("held_out", 10)):
        assert len(getattr(exemplars, name)) == count
        assert pictures(getattr(loaded, name)) == pictures(getattr(exemplars, name))


def test_only_one_kind_of_budget_can_be_given() -> None:
    with pytest.raises(ConfigError, match="exemplars=20 and exemplars_per_class=2: give only one of them"):
        TrainConfig(exemplars=20, exemplars_per_class=2)


def test_an_unknown_selection_is_refused() -> None:
    message = "selection='best' is unknown; allowed: herding, random, entropy, distance"
    with pytest.raises(ConfigError, match=message):
        replace(TrainConfig(), **{"selection": "best"})
