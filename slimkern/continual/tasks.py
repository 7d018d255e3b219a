"""A dataset cut into tasks: which classes arrive when, and the images of each."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from slimkern.continual.data import Dataset, ImageSet

_ICARL_SEED = 1993
_ICARL_CLASSES = 100


class TaskError(ValueError):
    """A dataset cannot be cut into tasks as asked; the message says what can be."""


@dataclass(frozen=True, eq=False)
class Task:
    """The classes that arrive together.

    ``classes`` are the labels the network sees: positions in the class order, consecutive over tasks. The labels of
    ``train``, ``validation`` (which may be empty) and ``test`` are such positions.
    """

    index: int
    classes: range
    train: ImageSet
    validation: ImageSet
    test: ImageSet


def split_sizes(classes: int, tasks: int, first_task_classes: int | None = None) -> tuple[int, ...]:
    """How many classes each task gets: all the same, or ``first_task_classes`` and then all the same.

    Raises:
        TaskError: the classes do not split evenly into at least one a task.
    """
    if not 1 <= tasks <= classes:
        raise TaskError(f"{classes} classes need between 1 and {classes} tasks, not {tasks}")
    if first_task_classes is None:
        return (_even_share(classes, tasks),) * tasks
    if tasks == 1 and first_task_classes != classes:
        raise TaskError(f"a single task holds all {classes} classes, not {first_task_classes}")
    if not 1 <= first_task_classes <= classes - (tasks - 1):
        raise TaskError(
            f"the first of {tasks} tasks can have 1 to {classes - (tasks - 1)} of {classes} classes, "
            f"not {first_task_classes}"
        )
    if tasks == 1:
        return (classes,)
    return (first_task_classes, *(_even_share(classes - first_task_classes, tasks - 1),) * (tasks - 1))


def _even_share(classes: int, tasks: int) -> int:
    if classes % tasks:
        divisors = ", ".join(str(number) for number in range(1, classes + 1) if classes % number == 0)
        raise TaskError(f"{classes} classes do not split evenly into {tasks} tasks; these numbers do: {divisors}")
    return classes // tasks


def class_order(rule: str, classes: int, seed: int) -> tuple[int, ...]:
    """The dataset's labels in the order in which they are learned.

    ``sorted`` keeps the dataset's order. ``seed`` shuffles it by numpy's legacy generator, as FACIL and the
    released ScrollNet code do. ``icarl`` is the
    fixed order of 100 classes that iCaRL (Rebuffi et al., 2017) published and FACIL calls ``cifar100_icarl``: numpy's
    legacy generator at seed 1993.

    Raises:
        TaskError: no such rule, a negative seed, or ``icarl`` for other than 100 classes.
    """
    match rule:
        case "sorted":
            order = np.arange(classes)
        case "seed":
            order = np.random.RandomState(_checked(seed)).permutation(classes)
        case "icarl":
            if classes != _ICARL_CLASSES:
                raise TaskError(f"the class order 'icarl' is for {_ICARL_CLASSES} classes, not {classes}")
            order = np.random.RandomState(_ICARL_SEED).permutation(classes)
        case _:
            raise TaskError(f"unknown class order {rule!r}; allowed: seed, sorted, icarl")
    return tuple(order.tolist())


def build_tasks(
    dataset: Dataset,
    *,
    tasks: int,
    first_task_classes: int | None = None,
    classes: int | None = None,
    order: str = "seed",
    seed: int = 0,
    validation: float = 0.1,
) -> tuple[Task, ...]:
    """Cut a dataset into tasks.

    ``classes`` takes only the first so many of the class order; the others' images are left out.

    ``validation`` is the share of each class's training images set aside, rounded to whole images, always leaving one
    for training. Which ones depends on ``seed`` alone, not on the class order or the number of tasks.

    Raises:
        TaskError: as ``split_sizes`` and ``class_order`` do, there aren't as many ``classes``, or ``validation`` is
            outside [0, 1).
    """
    all_classes = len(dataset.classes)
    if classes is not None and not 1 <= classes <= all_classes:
        raise TaskError(f"classes={classes} must lie in 1 to {all_classes}, the classes of {dataset.name}")
    sizes = split_sizes(classes or all_classes, tasks, first_task_classes)
    position_of = torch.tensor(class_order(order, all_classes, seed)).argsort()
    if not 0 <= validation < 1:
        raise TaskError(f"validation must be a share from 0 up to, not including, 1; got {validation}")
    held_out = _held_out(dataset.train.labels, all_classes, validation, seed)
    train, test = (_relabelled(part, position_of) for part in (dataset.train, dataset.test))
    ends = tuple(accumulate(sizes))
    return tuple(
        Task(
            index,
            range(end - size, end),
            train=train.select(_within(train, end - size, end) & ~held_out),
            validation=train.select(_within(train, end - size, end) & held_out),
            test=test.select(_within(test, end - size, end)),
        )
        for index, (size, end) in enumerate(zip(sizes, ends, strict=True))
    )


def _relabelled(part: ImageSet, position_of: Tensor) -> ImageSet:
    return ImageSet(part.images, position_of.to(part.labels.device)[part.labels])


def _within(part: ImageSet, start: int, stop: int) -> Tensor:
    return (part.labels >= start) & (part.labels < stop)


def _held_out(labels: Tensor, classes: int, share: float, seed: int) -> Tensor:
    """A bool mask [N] of the validation images, each class drawn by a generator of its own."""
    mask = torch.zeros_like(labels, dtype=torch.bool)
    for label in range(classes):
        members = (labels == label).nonzero().squeeze(1)
        count = max(0, min(round(share * len(members)), len(members) - 1))
        drawn = _generator(seed, label).permutation(len(members))[:count]
        mask[members[torch.from_numpy(drawn).to(members.device)]] = True
    return mask


def _generator(seed: int, *stream: int) -> np.random.Generator:
    return np.random.default_rng([_checked(seed), *stream])


def _checked(seed: int) -> int:
    if not 0 <= seed < 2**32:
        raise TaskError(f"seed must lie in 0..{2**32 - 1}, got {seed}")
    return seed
