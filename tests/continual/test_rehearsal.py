"""Runs that learn a task together with images of earlier ones, and runs without a backbone to learn."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from slimkern.continual.config import ConfigError, MethodName
from slimkern.continual.data.augment import Augmentation
from slimkern.continual.evaluation import count_correct
from slimkern.continual.methods import METHODS, Step
from slimkern.continual.metrics import average_accuracy
from slimkern.continual.recorder import Plan
from slimkern.continual.training import Trainer, train
from slimkern.nn.scroll import current_scroll
from tests.continual.few_digits import TINY, Listener, differences, few_digits, restored
from tests.continual.test_training import UNEVEN, scrolls, weights

REHEARSALS: dict[str, dict[str, Any]] = {
    "ft": {"method": "ft", "exemplars": 20},
    "ewc": {"method": "ewc", "exemplars_per_class": 2},
    "icarl": {"method": "icarl", "exemplars": 20},
    "bic": {"method": "bic", "exemplars": 20},
    "lucir": {"method": "lucir", "exemplars": 20, "selection": "entropy"},
    "joint": {"method": "joint"},
    "freezing": {"method": "freezing"},
}
PARTS = {
    "ft": {"cross-entropy"},
    "ewc": {"cross-entropy", "penalty"},
    "icarl": {"cross-entropy", "distillation"},
    "bic": {"cross-entropy", "distillation"},
    "lucir": {"cross-entropy", "less-forget", "margin ranking"},
    "joint": {"cross-entropy"},
    "freezing": {"cross-entropy"},
}
every_rehearsal = pytest.mark.parametrize("name", REHEARSALS)


class Informed(Listener):
    """Keeps the plan too."""

    def started(self, plan: Plan, task: int, epoch: int) -> None:
        super().started(plan, task, epoch)
        self.plan = plan


@cache
def told_by(name: str, widths: tuple[float, ...] = UNEVEN) -> Informed:
    listener = Informed()
    train(replace(TINY, widths=widths, **REHEARSALS[name]), few_digits(), listener)
    return listener


@every_rehearsal
@pytest.mark.parametrize("widths", [(1.0,), (4.0,)], ids=str)
def test_a_run_counts_its_answers_and_tells_its_losses(name: str, widths: tuple[float, ...]) -> None:
    told = told_by(name, widths)
    counts = told.counts
    assert (
        counts is not None and counts.complete and counts.widths == TINY.all_widths().fractions[-len(counts.widths) :]
    )
    beside = {f"cross-entropy at {width:g}" for width in counts.widths[:-1]}
    for epoch in told.epochs:
        assert set(epoch.losses) == beside | (PARTS[name] if epoch.task else {"cross-entropy"})
        assert all(math.isfinite(loss) for loss in epoch.losses.values())


@every_rehearsal
def test_resumed_from_any_checkpoint_a_run_ends_bit_for_bit_the_same(name: str) -> None:
    unbroken = told_by(name)
    end = restored(unbroken.checkpoints[-1])
    for stop in (1, 2, 4):  # within the first task, between the two, and in the second before its exemplars are chosen
        torch.manual_seed(stop)
        resumed, data = Listener(), unbroken.checkpoints[stop]
        counts = train(replace(TINY, widths=UNEVEN, **REHEARSALS[name]), few_digits(), resumed, state=restored(data))
        assert counts == unbroken.counts
        assert differences(end, restored(resumed.checkpoints[-1])) == [], f"resumed from checkpoint {stop}"


@every_rehearsal
def test_the_last_checkpoint_answers_as_the_run_did(name: str) -> None:
    told = told_by(name)
    trainer = Trainer(replace(TINY, widths=UNEVEN, **REHEARSALS[name]), few_digits(), torch.device("cpu"))
    trainer.load_state_dict(restored(told.checkpoints[-1]))
    normalise = Augmentation.named("none", few_digits().mean, few_digits().std).normalise
    aware, agnostic = count_correct(trainer.net, trainer.tasks, normalise, trainer.method.scores)
    assert told.counts is not None
    assert (aware.numpy() == told.counts.aware[-1]).all() and (agnostic.numpy() == told.counts.agnostic[-1]).all()


@pytest.mark.parametrize(
    ("name", "steps"),
    [("ft", (6, 8)), ("bic", (5, 7)), ("joint", (6, 12)), ("freezing", (6, 6))],
)
def test_a_task_is_learned_with_what_is_at_hand(name: str, steps: tuple[int, ...]) -> None:
    """A task has 45 images and a step 8. 20 exemplars are 4 of each of 5 classes; BiC holds one of them out."""
    assert told_by(name).plan.steps == steps


@every_rehearsal
def test_heads_and_backbones_that_are_frozen_stay_as_they_are(name: str) -> None:
    after_first, after_second = (restored(told_by(name).checkpoints[at]) for at in (2, -1))
    changed = {
        part: bool(differences(weights(after_first, part), weights(after_second, part)))
        for part in ("backbone", "heads.0")
    }
    assert changed == {"backbone": name != "freezing", "heads.0": name not in ("lucir", "freezing")}
    assert scrolls(after_second) == {0 if name == "freezing" else 1}


def test_losses_choose_among_all_classes_seen_where_earlier_images_are_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, set[range]] = {}
    for name in ("ft", "joint", "freezing"):
        kind = METHODS[name]

        class Watched(kind):  # type: ignore[misc, valid-type]
            def losses(self, step: Step) -> dict[str, Tensor]:
                seen.setdefault(name, set()).add(step.classes)  # noqa: B023
                assert step.classes.start <= step.labels.min() and step.labels.max() < step.classes.stop
                return super().losses(step)

        monkeypatch.setitem(METHODS, name, Watched)
        train(replace(TINY, epochs=1, **REHEARSALS[name]), few_digits())
    assert seen["ft"] == seen["joint"] == {range(5), range(10)}
    assert seen["freezing"] == {range(5), range(5, 10)}


def test_a_frozen_network_keeps_the_statistics_of_its_batch_norms_and_its_scroll() -> None:
    trainer = Trainer(replace(TINY, method="freezing"), few_digits(), torch.device("cpu"))
    trainer.load_state_dict(restored(told_by("freezing", (4.0,)).checkpoints[-1]))
    assert current_scroll(trainer.net) == 0
    assert trainer.net.backbone.bn1.num_batches_tracked.max() == 2 * 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"method": "icarl"},
            "method icarl needs exemplars: give exemplars .2000 in all in the paper. or exemplars_per",
        ),
        ({"method": "joint", "exemplars": 20}, "method joint keeps all images, so it takes no exemplars"),
        ({"exemplars": 91}, "exemplars=91 is more than the 90 training images of this run"),
        (
            {"exemplars_per_class": 10},
            "exemplars_per_class=10 is more than the 9 training images of the smallest class",
        ),
        ({"method": "bic", "exemplars": 10}, "exemplars=10 leaves 0 of each of 10 classes to train on and 1 held out"),
    ],
    ids=["needed", "not needed", "more than all", "more than a class has", "nothing to train on"],
)
def test_exemplars_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    told = Listener()
    with pytest.raises(ConfigError, match=message):
        train(replace(TINY, **changes), few_digits(), told)
    assert not told.began


@cache
def learned(method: MethodName, exemplars: int, epochs: int, width: float) -> float:
    """Task-agnostic accuracy after five tasks of two digits; more widths add up to longer gradients."""
    config = replace(
        TINY, method=method, exemplars_per_class=exemplars, tasks=5, epochs=epochs, channels=8, batch_size=16,
        learning_rate=0.1 if width == 1 else 0.03, decay_at=(0.7, 0.9), widths=(width,),
    )  # fmt: skip
    return float(average_accuracy(train(config, few_digits(60, 16)), "agnostic")[-1])


@pytest.mark.parametrize(
    ("method", "exemplars", "epochs", "width"),
    [
        ("ft", 10, 5, 1.0),
        ("icarl", 10, 5, 1.0),
        ("bic", 10, 5, 1.0),
        ("lucir", 10, 10, 1.0),
        ("icarl", 10, 5, 4.0),
        ("bic", 20, 5, 4.0),
        ("lucir", 10, 10, 4.0),
    ],
)
def test_exemplars_prevent_forgetting(method: MethodName, exemplars: int, epochs: int, width: float) -> None:
    """So many of the 54 training images of each class are kept."""
    assert learned(method, exemplars, epochs, width) > learned("ft", 0, epochs, width) + 10


def test_all_images_prevent_it_too() -> None:
    assert learned("joint", 0, 5, 1.0) > learned("ft", 0, 5, 1.0) + 10
