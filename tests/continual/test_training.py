from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from slimkern.continual.config import ConfigError, MethodName
from slimkern.continual.data.augment import Augmentation
from slimkern.continual.methods import METHODS, FineTuning, Step
from slimkern.continual.tasks import TaskError
from slimkern.continual.training import DivergedError, Trainer, train
from slimkern.width_batch import WidthBatch, at_width
from tests.continual.few_digits import TINY, Listener, differences, few_digits, restored

PARTS = {
    "ft": {"cross-entropy"},
    "lwf": {"cross-entropy", "distillation"},
    "ewc": {"cross-entropy", "penalty"},
    "mas": {"cross-entropy", "penalty"},
}
UNEVEN = (0.25, 0.5, 1.0)
IMAGES_A_TASK = 45
every_method = pytest.mark.parametrize("method", PARTS)


@cache
def trained(eager: bool = False, **changes: Any) -> Listener:
    """What an unbroken tiny run tells."""
    listener = Listener()
    train(replace(TINY, **changes), few_digits(), listener, eager=eager)
    return listener


def trainer(**changes: Any) -> Trainer:
    return Trainer(replace(TINY, **changes), few_digits(), torch.device("cpu"))


def scrolls(checkpoint: dict[str, Any]) -> set[int]:
    return {own["scroll"] for own in checkpoint["net"]._metadata.values() if "scroll" in own}


def weights(checkpoint: dict[str, Any], of: str) -> dict[str, Tensor]:
    return {name: value for name, value in checkpoint["net"].items() if name.startswith(of)}


@every_method
@pytest.mark.parametrize("widths", [(1.0,), (2.0,), (4.0,), UNEVEN], ids=str)
def test_a_run_counts_its_answers_and_tells_its_losses(method: MethodName, widths: tuple[float, ...]) -> None:
    told = trained(method=method, widths=widths)
    config = replace(TINY, method=method, widths=widths)
    counts, (*narrower, _) = told.counts, config.all_widths().fractions
    assert counts is not None and counts.complete
    assert counts.widths == (*narrower, 1.0) and counts.totals == (20, 20)
    assert [(epoch.task, epoch.epoch) for epoch in told.epochs] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [epoch.learning_rate for epoch in told.epochs] == [config.learning_rate_at(at) for at in (0, 1)] * 2
    beside = {f"cross-entropy at {width:g}" for width in narrower}
    for epoch in told.epochs:
        assert set(epoch.losses) == beside | (PARTS[method] if epoch.task else {"cross-entropy"})
        assert epoch.loss == pytest.approx(sum(epoch.losses.values()), rel=1e-5) and math.isfinite(epoch.loss)
        assert epoch.validation_accuracy is not None and 0 <= epoch.validation_accuracy <= 100


def test_every_width_learns_to_tell_two_digits_apart() -> None:
    digits = few_digits(train=40, test=16)
    train_set, test_set = (part.select(part.labels < 2) for part in (digits.train, digits.test))
    pair = replace(digits, train=train_set, test=test_set, classes=("0", "1"))
    config = replace(TINY, tasks=1, epochs=6, channels=8, learning_rate=0.05, momentum=0.0, augmentation="none")
    counts = train(config, pair)
    assert counts.totals == (32,) and (counts.aware > 26).all()
    assert (counts.aware == counts.agnostic).all()


@pytest.mark.parametrize("method", ["lwf", "ewc", "mas"])
def test_a_method_changes_only_what_comes_after_the_first_task(method: MethodName) -> None:
    (first, plain), (later, plain_later) = (
        [restored(told.checkpoints[at])["net"] for told in (trained(method=method), trained(method="ft"))]
        for at in (1, -1)
    )
    assert not differences(first, plain)
    assert differences(later, plain_later)


@every_method
def test_old_heads_stay_as_they_are(method: MethodName) -> None:
    after_first, after_second = (restored(trained(method=method).checkpoints[at]) for at in (2, -1))
    assert (after_first["heads"], after_second["heads"]) == ([5], [5, 5])
    assert not differences(weights(after_first, "heads.0"), weights(after_second, "heads.0"))
    assert differences(weights(after_first, "backbone"), weights(after_second, "backbone"))


def test_old_heads_do_not_decay_either() -> None:
    told = trained(weight_decay=0.1)
    after_first, after_second = (weights(restored(told.checkpoints[at]), "heads.0") for at in (2, -1))
    assert len(after_first) == 2 and not differences(after_first, after_second)


@pytest.mark.parametrize(
    ("step", "widths", "expected"),
    [
        (1, (4.0,), [0, 1, 2, 3, 0]),
        (3, (4.0,), [0, 3, 2, 1, 0]),
        (0, (4.0,), [0, 0, 0, 0, 0]),
        (1, (2.0,), [0, 1, 0, 1, 0]),
        (1, UNEVEN, [0, 1, 2, 3, 0]),
        (1, (1.0,), [0, 0, 0, 0, 0]),
    ],
    ids=str,
)
def test_each_task_has_its_scroll(step: int, widths: tuple[float, ...], expected: list[int]) -> None:
    told = trained(tasks=5, epochs=1, scroll_step=step, widths=widths)
    seen = [restored(data) for data in told.checkpoints]
    after_epochs = [scrolls(checkpoint) for checkpoint in seen if checkpoint["epoch"]]
    assert after_epochs == [{scroll} for scroll in expected]


def test_a_step_loses_the_methods_parts_and_the_cross_entropy_of_every_other_width() -> None:
    """At learning rate 0 one step on all images loses what the initial network does."""
    changes: dict[str, Any] = {"learning_rate": 0.0, "batch_size": IMAGES_A_TASK, "augmentation": "none"}
    told, run = trained(widths=UNEVEN, **changes), trainer(widths=UNEVEN, **changes)
    run.load_state_dict(restored(told.checkpoints[0]))
    images = Augmentation.named("none", few_digits().mean, few_digits().std)(run.tasks[0].train.images)
    for width, name in [(0.25, "cross-entropy at 0.25"), (0.5, "cross-entropy at 0.5"), (1.0, "cross-entropy")]:
        answers = run.net.train()(at_width(images, width))
        assert isinstance(answers, WidthBatch)
        expected = F.cross_entropy(answers.slabs[0], run.tasks[0].train.labels).item()
        assert told.epochs[0].losses[name] == pytest.approx(expected, rel=1e-4)


def test_a_step_is_no_longer_than_the_rate_times_the_largest_norm() -> None:
    changes: dict[str, Any] = {"epochs": 2, "batch_size": 64, "momentum": 0.0, "learning_rate": 0.5, "decay_at": ()}
    before, after = (restored(data)["net"] for data in trained(clip=0.02, **changes).checkpoints[:2])
    learned = [name for name, _ in trainer().net.named_parameters()] + ["heads.0.weight", "heads.0.bias"]
    length = math.sqrt(sum(float((after[name] - before[name]).double().square().sum()) for name in learned))
    assert length == pytest.approx(0.5 * 0.02, rel=1e-3)


@every_method
def test_resumed_from_any_checkpoint_a_run_ends_bit_for_bit_the_same(method: MethodName) -> None:
    unbroken = trained(method=method)
    assert len(unbroken.checkpoints) == 2 * (TINY.epochs + 1)
    end = restored(unbroken.checkpoints[-1])
    for stop, data in enumerate(unbroken.checkpoints):
        torch.manual_seed(stop)
        resumed = Listener()
        counts = train(replace(TINY, method=method), few_digits(), resumed, state=restored(data))
        assert resumed.began == [(restored(data)["task"], restored(data)["epoch"])]
        assert counts == unbroken.counts
        assert len(resumed.checkpoints) == len(unbroken.checkpoints) - stop - 1
        assert differences(end, restored([data, *resumed.checkpoints][-1])) == [], f"resumed from checkpoint {stop}"


@pytest.mark.parametrize("widths", [(1.0,), UNEVEN], ids=str)
def test_resumed_at_other_widths_a_run_ends_the_same(widths: tuple[float, ...]) -> None:
    unbroken = trained(method="ewc", widths=widths)
    resumed = Listener()
    config = replace(TINY, method="ewc", widths=widths)
    train(config, few_digits(), resumed, state=restored(unbroken.checkpoints[3]))
    assert not differences(restored(unbroken.checkpoints[-1]), restored(resumed.checkpoints[-1]))


def test_another_seed_is_another_run() -> None:
    one, other = (restored(trained(seed=seed).checkpoints[-1])["net"] for seed in (0, 1))
    assert differences(one, other)


class Watched(FineTuning):
    """Fine-tuning that notes the size of its batches, and whose loss is spoilt at one step."""

    sizes: list[int]
    spoilt: dict[int, float]

    def losses(self, step: Step) -> dict[str, Tensor]:
        factor = self.spoilt.get(len(self.sizes), 1.0)
        self.sizes.append(len(step.labels))
        return {name: part * factor for name, part in super().losses(step).items()}


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> type[Watched]:
    monkeypatch.setattr(Watched, "sizes", [], raising=False)
    monkeypatch.setattr(Watched, "spoilt", {}, raising=False)
    monkeypatch.setitem(METHODS, "ft", Watched)
    return Watched


@pytest.mark.parametrize(
    ("batch_size", "sizes"),
    [(8, [8] * 5 + [5]), (11, [11] * 3 + [12]), (44, [45]), (45, [45]), (64, [45])],
    ids=["shorter last", "one left over", "one left over of two", "exact", "one batch"],
)
def test_every_image_is_seen_and_none_alone(watched: type[Watched], batch_size: int, sizes: list[int]) -> None:
    train(replace(TINY, epochs=1, batch_size=batch_size), few_digits(), eager=True)
    assert sum(sizes) == IMAGES_A_TASK
    assert watched.sizes == sizes * 2


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_the_run_with_the_last_checkpoint_before_it(
    watched: type[Watched], monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    steps = 6
    watched.spoilt[(TINY.epochs + 1) * steps + 2] = value
    told = Listener()
    with pytest.raises(DivergedError) as raised:
        train(TINY, few_digits(), told, eager=True)  # what is spoilt is one call
    assert str(raised.value).startswith(
        f"the cross-entropy of task 1, epoch 1, step 2 (all counted from 0) is {value};"
    )
    assert "the last checkpoint is from before this epoch" in str(raised.value) and "now 0.02" in str(raised.value)
    last = restored(told.checkpoints[-1])
    assert (last["task"], last["epoch"]) == (1, 1)
    assert all(tensor.isfinite().all() for tensor in last["net"].values())
    monkeypatch.setitem(METHODS, "ft", FineTuning)
    resumed = Listener()
    train(TINY, few_digits(), resumed, state=last)
    assert not differences(restored(resumed.checkpoints[-1]), restored(trained().checkpoints[-1]))


EXPLOSIVE = replace(TINY, learning_rate=1e9, weight_decay=1e9)


def test_weights_that_explode_are_told_as_divergence() -> None:
    with pytest.raises(DivergedError, match=r"of task 0, epoch 0, step \d .* is (nan|inf)"):
        train(EXPLOSIVE, few_digits())


def test_a_last_step_with_a_finite_loss_that_breaks_the_weights_is_told() -> None:
    told = Listener()
    with pytest.raises(DivergedError, match=r"the norm of the weights after task 0, epoch 0, step 0 .* is (nan|inf)"):
        train(replace(EXPLOSIVE, tasks=1, epochs=1, batch_size=128), few_digits(), told)
    assert not told.checkpoints


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"tasks": 3}, TaskError, "10 classes do not split evenly into 3 tasks"),
        ({"class_order": "icarl"}, TaskError, "'icarl' is for 100 classes, not 10"),
        ({"validation": 1.0}, TaskError, "validation must be a share"),
        ({"options": {"alpha": 0.5}}, ConfigError, "method ft has no such options"),
        ({"channels": 6}, ConfigError, "channels=6 can't be cut into the 4 blocks"),
    ],
    ids=["tasks", "class-order", "validation", "options", "channels"],
)
def test_a_configuration_that_does_not_fit_is_refused(
    changes: dict[str, Any], kind: type[Exception], message: str
) -> None:
    told = Listener()
    with pytest.raises(kind, match=message):
        train(replace(TINY, **changes), few_digits(), told)
    assert not told.began
