from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from slimkern.continual.data.augment import Augmentation
from slimkern.continual.evaluation import count_correct, validation_accuracy, within_task
from slimkern.continual.network import ContinualNet
from slimkern.continual.tasks import Task, build_tasks
from slimkern.models import resnet18
from slimkern.nn import scroll_to
from slimkern.width_batch import WidthBatch, at_width
from slimkern.widths import Widths
from tests.continual.few_digits import few_digits

NORMALISE = Augmentation.named("none", (0.3,), (0.4,)).normalise
MANY = 60
"""Test images of a class, so that a task of five classes takes more than one batch of evaluation."""


@pytest.fixture(scope="module")
def tasks() -> tuple[Task, ...]:
    data = few_digits(train=20)
    more = few_digits(train=MANY).train
    return build_tasks(replace(data, test=more), tasks=2)


@pytest.fixture(scope="module")
def net(tasks: tuple[Task, ...]) -> ContinualNet:
    torch.manual_seed(0)
    widths = Widths.of((0.25, 0.5, 1.0))
    net = ContinualNet(resnet18(None, widths, in_channels=1, channels=4), widths)
    for task in tasks:
        net.add_head(len(task.classes))
    scroll_to(net, task=1)
    return net.train()


def logits_at(net: ContinualNet, images: Tensor, width: float) -> list[list[float]]:
    rows = []
    with torch.no_grad():
        for some in NORMALISE(images).split(50):
            answers = net.eval()(at_width(some, width))
            assert isinstance(answers, WidthBatch)
            rows += answers.slabs[0].tolist()
    return rows


def best(scores: list[float], labels: range) -> int:
    return max(labels, key=lambda label: scores[label])


def test_counts_are_those_of_a_plain_loop(net: ContinualNet, tasks: tuple[Task, ...]) -> None:
    counts = count_correct(net, tasks, NORMALISE)
    assert counts.shape == (2, 2, 3) and counts.dtype == torch.int64 and counts.device.type == "cpu"
    for on, task in enumerate(tasks):
        assert len(task.test) == 5 * MANY
        for place, width in enumerate(net.widths.fractions):
            answers = list(zip(logits_at(net, task.test.images, width), task.test.labels.tolist(), strict=True))
            aware = sum(best(scores, task.classes) == label for scores, label in answers)
            agnostic = sum(best(scores, range(10)) == label for scores, label in answers)
            assert counts[:, on, place].tolist() == [aware, agnostic]


def test_only_the_tasks_given_are_counted(net: ContinualNet, tasks: tuple[Task, ...]) -> None:
    both, first = count_correct(net, tasks, NORMALISE), count_correct(net, tasks[:1], NORMALISE)
    assert torch.equal(first, both[:, :1])


def test_validation_accuracy_is_task_aware_at_width_1(net: ContinualNet, tasks: tuple[Task, ...]) -> None:
    for task in tasks:
        held_out = task.validation
        answers = zip(logits_at(net, held_out.images, 1.0), held_out.labels.tolist(), strict=True)
        right = [best(scores, task.classes) == label for scores, label in answers]
        assert len(right) == 10
        assert validation_accuracy(net, task, NORMALISE) == pytest.approx(100 * sum(right) / len(right))


def test_without_held_out_images_there_is_no_validation_accuracy(net: ContinualNet, tasks: tuple[Task, ...]) -> None:
    nothing = tasks[0].validation.select(torch.tensor([], dtype=torch.int64))
    assert validation_accuracy(net, replace(tasks[0], validation=nothing), NORMALISE) is None


def test_evaluating_leaves_the_network_as_it_was(net: ContinualNet, tasks: tuple[Task, ...]) -> None:
    before = {name: value.clone() for name, value in net.state_dict().items()}
    count_correct(net.train(), tasks, NORMALISE)
    validation_accuracy(net.train(), tasks[0], NORMALISE)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_the_best_class_of_a_task_is_sought_in_its_own_head() -> None:
    logits = torch.tensor([[9.0, 0.0, 1.0, 2.0, 8.0], [0.0, 0.0, 5.0, -2.0, 8.0]])
    assert within_task(logits, range(2, 4)).tolist() == [3, 2]
