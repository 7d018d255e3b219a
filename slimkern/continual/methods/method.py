"""What the training loop asks of a method."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import cached_property
from typing import Any, ClassVar, Self, cast

from torch import Tensor, nn

from slimkern.continual.config import ConfigError
from slimkern.continual.evaluation import logits_as_scores
from slimkern.continual.network import ContinualNet, unhalved
from slimkern.models.resnet import ResNet
from slimkern.width_batch import WidthBatch
from slimkern.widths import Widths

Batches = Iterable[tuple[Tensor, Tensor]]
"""Images float32 [N, C, H, W] and labels int64 [N], on the network's device."""


@dataclass(frozen=True)
class Step:
    """What a method sees of one training step.

    Attributes:
        net: the network being trained.
        images: augmented images, float32 [N, C, H, W].
        labels: int64 [N], positions in the class order.
        classes: the labels that cross-entropies choose among: those of the present task, or with rehearsal all seen.
        maps: the backbone's last maps at width 1.0, [N, C, H, W].
        cross_entropy: the mean cross-entropy at width 1.0 over `classes`.
    """

    net: ContinualNet
    images: Tensor
    labels: Tensor
    classes: range
    maps: Tensor
    cross_entropy: Tensor

    @cached_property
    def features(self) -> Tensor:
        """Those of width 1.0, [N, C], by position; float32 under autocast too."""
        return unhalved(self.net.backbone.pooled(self.maps))

    @cached_property
    def logits(self) -> Tensor:
        """Those of width 1.0, [N, classes seen]; float32 under autocast too."""
        return unhalved(cast(Tensor, self.net.classify(self.features)))


@dataclass
class Method:
    """The base of all methods. Fields of a subclass are its options, numbers with a default.

    A method rehearses if it learns a task together with images of earlier ones: exemplars, or all of them. Without
    rehearsal a task is learned with its own head alone; older heads stay as they are.

    Attributes:
        needs_exemplars: the method can't run without exemplars.
        keeps_all_images: it learns each task together with all images of the earlier ones, and takes no exemplars.
        truncates_exemplars: the exemplars of an old class are the first of those it had, and not chosen again.
        scrolls: tasks may have other rankings than the first one.
        defaults: fields of a configuration whose defaults are other ones for this method.
        eager_because: why `losses` can't be recorded, for a method that reads something back to the host
            or does something else in each step; None for all others.
    """

    needs_exemplars: ClassVar[bool] = False
    keeps_all_images: ClassVar[bool] = False
    truncates_exemplars: ClassVar[bool] = False
    scrolls: ClassVar[bool] = True
    defaults: ClassVar[dict[str, Any]] = {}
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

    @property
    def held_out_share(self) -> float:
        """The share of each class's exemplars that is kept from training, for `after_selection`."""
        return 0.0

    def network(self, backbone: ResNet, widths: Widths) -> ContinualNet:
        """The network to learn with, on a backbone that nobody else uses."""
        return ContinualNet(backbone, widths)

    def frozen(self, net: ContinualNet, rehearsing: bool) -> Sequence[nn.Module]:
        """Parts of the network that the present task leaves as they are; the newest head is the task's own."""
        return [] if rehearsing else list(net.heads[:-1])

    def before_task(self, net: ContinualNet, task: int) -> None:
        """Called when the network has its new head and scroll, before the first step of task `task`."""

    def losses(self, step: Step) -> dict[str, Tensor]:
        """The loss at width 1.0, as named scalar parts to be added."""
        raise NotImplementedError

    def after_selection(self, net: ContinualNet, exemplars: Batches, held_out: Batches) -> None:
        """Called after the last step of a task of a run with exemplars, before `after_task`.

        Args:
            net: the network.
            exemplars: those of all classes seen, chosen just now, without augmentation.
            held_out: images of all classes seen that were never trained on, as many of each, likewise.
        """

    def after_task(self, net: ContinualNet, task: int, batches: Batches) -> None:
        """Called after the last step of task `task`, with its own training images once more, augmented, in batches."""

    def scores(self, net: ContinualNet, images: Tensor) -> WidthBatch:
        """Classify images [N, C, H, W]: a score for each class seen, [N, classes], at every width; the largest wins.

        Called between `after_task` and the next `before_task`, without gradients, the network in evaluation mode.
        """
        return logits_as_scores(net, images)

    def state_dict(self) -> dict[str, Any]:
        """What the method has learned, as tensors and plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any], net: ContinualNet) -> None:
        """Take up a state given by `state_dict`; `net` is the network as it was then."""
