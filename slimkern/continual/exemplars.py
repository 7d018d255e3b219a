"""Images of earlier tasks that are kept to learn later ones with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from slimkern.continual.config import ConfigError, TrainConfig
from slimkern.continual.data import ImageSet
from slimkern.continual.data.image_set import rank_within_class
from slimkern.continual.evaluation import Normalise, plain_batches
from slimkern.continual.network import ContinualNet
from slimkern.continual.selection import SelectionName, select
from slimkern.continual.tasks import Task


@dataclass(frozen=True)
class Budget:
    """How many exemplars may be kept.

    Args:
        total: of all classes together; or 0.
        per_class: of each class; or 0. With neither there are no exemplars.
        held_out_share: the share of them, rounded up, that is never trained on.
        round_up: a class's part of the total is rounded up, as FACIL does, not down.
    """

    total: int = 0
    per_class: int = 0
    held_out_share: float = 0.0
    round_up: bool = False

    @classmethod
    def of(cls, config: TrainConfig, held_out_share: float) -> Budget:
        """The budget that a configuration gives."""
        released = config.protocol == "released"
        return cls(config.exemplars, config.exemplars_per_class, held_out_share, round_up=released)

    def __bool__(self) -> bool:
        return bool(self.total or self.per_class)

    def of_class(self, classes_seen: int, smallest: int) -> tuple[int, int]:
        """Exemplars of one class to train on, and to hold out.

        Args:
            classes_seen: classes that share the budget.
            smallest: images of the smallest new class; more than these are not kept.
        """
        share = self.total / classes_seen
        both = min(self.per_class or (math.ceil(share) if self.round_up else math.floor(share)), smallest)
        held_out = math.ceil(self.held_out_share * both)
        return both - held_out, held_out

    def check(self, classes: Sequence[int]) -> None:
        """Refuse a budget that the training images can't fill, or that leaves nothing of a class.

        Args:
            classes: training images of each class of the whole run.

        Raises:
            ConfigError: saying how much there is.
        """
        if not self:
            return
        given = f"exemplars={self.total}" if self.total else f"exemplars_per_class={self.per_class}"
        if self.total > sum(classes):
            raise ConfigError(f"{given} is more than the {sum(classes)} training images of this run")
        if self.per_class > min(classes):
            raise ConfigError(f"{given} is more than the {min(classes)} training images of the smallest class")
        trained, held_out = self.of_class(len(classes), min(classes))
        if trained < 1:
            raise ConfigError(
                f"{given} leaves {trained} of each of {len(classes)} classes to train on and {held_out} held out"
            )


class Exemplars:
    """The exemplars of a run, as uint8 on the device of its images.

    Args:
        budget: how many.
        like: images of the same shape and device.

    Attributes:
        trained: those that later tasks are learned with.
        held_out: those that are never trained on.
    """

    def __init__(self, budget: Budget, like: ImageSet) -> None:
        self.budget = budget
        self.trained = self.held_out = like.select(like.labels[:0])

    def split(self, task: Task) -> tuple[ImageSet, ImageSet]:
        """The training images of a task: those to learn from, and the first of each class, which are held out."""
        if not self.budget.held_out_share:
            return task.train, self.held_out
        ranks, (_, held_out) = rank_within_class(task.train.labels), self._of_class(task)
        return task.train.select(ranks >= held_out), task.train.select(ranks < held_out)

    def update(
        self, task: Task, net: ContinualNet, rule: SelectionName, normalise: Normalise, truncate: bool = False
    ) -> None:
        """Choose again after a task, among its training images and the exemplars so far, as many of each class.

        Args:
            task: the task just learned.
            net: gives the features and logits to choose by, at width 1.0.
            rule: how to choose.
            normalise: uint8 images to the network's input.
            truncate: choose for the new classes only; the others keep their first ones.
        """
        keep, keep_held_out = self._of_class(task)
        new, held_out = self.split(task)
        held_out = ImageSet.joined([self.held_out, held_out])
        self.held_out = held_out.select(rank_within_class(held_out.labels) < keep_held_out)
        candidates = ImageSet.joined([self.trained, new])
        features, logits = _answers(net, candidates, normalise)
        chosen = []
        for label in range(task.classes.stop):
            own = (candidates.labels == label).nonzero().squeeze(1)
            if truncate and label < task.classes.start:
                chosen.append(own[:keep])
                continue
            chosen.append(own[select(rule, features[own], logits[own], label, min(keep, len(own)))])
        self.trained = candidates.select(torch.cat(chosen))

    def training_sizes(self, tasks: Sequence[Task]) -> list[int]:
        """With how many images each task of a run will be learned."""
        sizes, kept = [], torch.zeros(0, dtype=torch.int64)
        for task in tasks:
            new = self.split(task)[0].labels.bincount()[task.classes.start :].cpu()
            kept = torch.cat([kept, new])
            sizes.append(int(kept.sum()))
            kept = kept.clamp(max=self._of_class(task)[0])
        return sizes

    def state_dict(self) -> dict[str, Any]:
        """The images and their labels."""
        parts = {"trained": self.trained, "held_out": self.held_out}
        return {name: {"images": part.images, "labels": part.labels} for name, part in parts.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the images that `state_dict` gave."""
        device = self.trained.labels.device
        self.trained, self.held_out = (ImageSet(**state[name]).to(device) for name in ("trained", "held_out"))

    def _of_class(self, task: Task) -> tuple[int, int]:
        return self.budget.of_class(task.classes.stop, min(class_sizes(task)))


def class_sizes(task: Task) -> list[int]:
    """Training images of each class of a task."""
    return task.train.labels.bincount(minlength=task.classes.stop)[task.classes.start :].tolist()


@torch.no_grad()
def _answers(net: ContinualNet, images: ImageSet, normalise: Normalise) -> tuple[Tensor, Tensor]:
    net.eval()
    features = torch.cat([net.backbone(batch) for batch, _ in plain_batches(images, normalise)])
    logits = net.classify(features)
    assert isinstance(logits, Tensor)
    return features, logits
