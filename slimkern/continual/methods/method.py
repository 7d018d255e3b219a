"""What the training loop asks of a method."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar, Self

import torch.nn.functional as F
from torch import Tensor

from slimkern.continual.config import ConfigError
from slimkern.continual.network import ContinualNet

Batches = Iterable[tuple[Tensor, Tensor]]
"""Augmented images float32 [N, C, H, W] and labels int64 [N], on the network's device."""


@dataclass(frozen=True)
class Step:
    """What a method sees of one training step.

    Attributes:
        net: the network being trained.
        images: augmented images, float32 [N, C, H, W].
        labels: int64 [N], positions in the class order.
        logits: those of width 1.0, [N, classes seen].
        classes: the labels of the present task.
    """

    net: ContinualNet
    images: Tensor
    labels: Tensor
    logits: Tensor
    classes: range


@dataclass
class Method:
    """The base of all methods. Fields of a subclass are its options, numbers with a default.

    A method without exemplars learns a task with that task's head alone; older heads stay as they are.

    Attributes:
        eager_because: why `losses` can't be part of a CUDA graph, for a method that reads something back to the host
            or does something else in each step; None for all others.
    """

    eager_because: ClassVar[str | None] = None

    @classmethod
    def options(cls) -> dict[str, float]:
        """Names and defaults of the options."""
        return {f.name: f.default for f in fields(cls) if f.init and f.default is not MISSING}

    @classmethod
    def from_options(cls, options: dict[str, float], penalties: int) -> Self:
        """Make the method; `penalties` is how often a step adds its penalty on the weights (see `--protocol`).

        Raises:
            ConfigError: an option that is negative or not finite.
        """
        for name, value in options.items():
            if not 0 <= value < math.inf:
                raise ConfigError(f"option {name}={value} of {cls.__name__} must be finite and not negative")
        return cls(**options)

    def before_task(self, net: ContinualNet, task: int) -> None:
        """Called when the network has its new head and scroll, before the first step of task `task`."""

    def losses(self, step: Step) -> dict[str, Tensor]:
        """The loss at width 1.0, as named scalar parts to be added."""
        raise NotImplementedError

    def after_task(self, net: ContinualNet, task: int, batches: Batches) -> None:
        """Called after the last step of task `task`, with its training images once more, in batches."""

    def state_dict(self) -> dict[str, Any]:
        """What the method has learned, as tensors and plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any], net: ContinualNet) -> None:
        """Take up a state given by `state_dict`; `net` is the network as it was then."""


def classification_loss(logits: Tensor, labels: Tensor, classes: range) -> Tensor:
    """Mean cross-entropy over the classes of one task (Eq. 4 of ScrollNet has one such term for each width).

    Args:
        logits: [N, classes seen].
        labels: int64 [N], all within `classes`.
        classes: the labels of the task.
    """
    return F.cross_entropy(logits[:, classes.start : classes.stop], labels - classes.start)
