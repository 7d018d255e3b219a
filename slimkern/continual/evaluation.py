"""Counting correct answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from slimkern.continual.data import ImageSet
from slimkern.continual.network import ContinualNet
from slimkern.continual.tasks import Task
from slimkern.width_batch import WidthBatch, every_width

Normalise = Callable[[Tensor], Tensor]
Scores = Callable[[ContinualNet, Tensor], WidthBatch]
"""Images [N, C, H, W] to a score for each class seen, [N, classes], at every width; the largest one is the answer."""
_BATCH = 256


def logits_as_scores(net: ContinualNet, images: Tensor) -> WidthBatch:
    """The scores of a method that classifies by the network's logits."""
    answers = net(every_width(images))
    assert isinstance(answers, WidthBatch)
    return answers


@torch.no_grad()
def count_correct(
    net: ContinualNet, tasks: Sequence[Task], normalise: Normalise, scores: Scores = logits_as_scores
) -> Tensor:
    """Correct answers on the test images of each task at every width, at the network's present scroll.

    Args:
        net: has heads for these tasks at least.
        tasks: those seen so far.
        normalise: uint8 images to the network's input.
        scores: how images are classified.

    Returns:
        int64 [2, tasks, widths] on the CPU: with the task known (argmax within its head), and over all heads.
    """
    net.eval()
    counts = torch.stack([_count(net, task, normalise, scores) for task in tasks], dim=1)
    return counts.cpu()


@torch.no_grad()
def validation_accuracy(net: ContinualNet, task: Task, normalise: Normalise) -> float | None:
    """Task-aware accuracy at width 1.0 on the task's held-out images, in percent; None without such images."""
    if len(task.validation) == 0:
        return None
    net.eval()
    correct = [
        (within_task(net(images), task.classes) == labels).sum()
        for images, labels in plain_batches(task.validation, normalise)
    ]
    return 100 * torch.stack(correct).sum().item() / len(task.validation)


def within_task(logits: Tensor, classes: range) -> Tensor:
    """The best class of one task: logits [N, classes seen] to labels int64 [N]."""
    return logits[:, classes.start : classes.stop].argmax(1) + classes.start


def _count(net: ContinualNet, task: Task, normalise: Normalise, scores: Scores) -> Tensor:
    counts = []
    for images, labels in plain_batches(task.test, normalise):
        answers = scores(net, images)
        aware = [(within_task(logits, task.classes) == labels).sum() for _, logits in answers]
        agnostic = [(logits.argmax(1) == labels).sum() for _, logits in answers]
        counts.append(torch.stack([torch.stack(aware), torch.stack(agnostic)]))
    return torch.stack(counts).sum(0)


def plain_batches(data: ImageSet, normalise: Normalise) -> Iterator[tuple[Tensor, Tensor]]:
    """Images as they are, normalised, and their labels, in order."""
    for start in range(0, len(data), _BATCH):
        yield normalise(data.images[start : start + _BATCH]), data.labels[start : start + _BATCH]
