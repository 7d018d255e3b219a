"""iCaRL: incremental classifier and representation learning (Rebuffi et al. 2017), as FACIL computes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from slimkern.continual.methods.method import Batches, Step
from slimkern.continual.methods.teacher import TaughtMethod
from slimkern.continual.network import ContinualNet, unhalved
from slimkern.continual.precision import without_autocast
from slimkern.width_batch import WidthBatch, every_width


@dataclass
class ICaRL(TaughtMethod):
    """Rehearse exemplars, distil the old classes' sigmoids, and classify by the nearest mean of exemplars.

    loss = cross-entropy + strength * sum over old classes y of BCE(sigmoid(g_y), q_y) at width 1.0, with q_y the old
    network's sigmoid, each BCE a mean over the batch: the second sum of the paper's Algorithm 3. Its first sum, BCE on
    the new classes, FACIL replaces by cross-entropy over all classes, and so do we.

    The mean of a class is that of its exemplars' features at the present scroll, all of length 1 (Eqs. 1 and 2). Each
    width has means of its own, since a sub-network has features of its own. Means and distances are float32 at least,
    whatever the network computes in.

    Args:
        strength: weight of the distillation; 1 in the paper.
    """

    needs_exemplars: ClassVar[bool] = True
    strength: float = 1.0
    _means: list[Tensor] = field(default_factory=list, init=False)

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Cross-entropy, and from the second task on the distillation."""
        parts = {"cross-entropy": step.cross_entropy}
        if self._teacher is not None:
            with torch.no_grad():
                targets = self._teacher(step.images)
            old = step.logits[:, : targets.shape[1]]
            parts["distillation"] = self.strength * sigmoid_distillation(old, targets)
        return parts

    def after_selection(self, net: ContinualNet, exemplars: Batches, held_out: Batches) -> None:
        """Take the mean of each class at each width."""
        features, labels = zip(*((_features(net.eval(), images), labels) for images, labels in exemplars), strict=True)
        classes = F.one_hot(torch.cat(labels)).T.to(features[0][0].dtype)
        with without_autocast(classes.device):
            self._means = [F.normalize(classes @ torch.cat(own)) for own in zip(*features, strict=True)]

    def scores(self, net: ContinualNet, images: Tensor) -> WidthBatch:
        """Minus half the squared distance to each mean, and 1: the cosine, as all have length 1 (Eq. 2)."""
        own = zip(_features(net, images), self._means, strict=True)
        with without_autocast(images.device):
            return WidthBatch([features @ means.T for features, means in own], net.widths.fractions)

    def state_dict(self) -> dict[str, Any]:
        """The frozen copy and the means."""
        return {**super().state_dict(), "means": self._means}

    def load_state_dict(self, state: dict[str, Any], net: ContinualNet) -> None:
        """Take up the frozen copy and the means."""
        super().load_state_dict(state, net)
        self._means = state["means"]


def sigmoid_distillation(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy with the sigmoids of `targets`, summed over classes, mean over the batch.

    Args:
        logits: of the network being trained, [N, old classes].
        targets: logits of the old network, likewise.
    """
    return F.binary_cross_entropy_with_logits(logits, targets.sigmoid(), reduction="none").sum(1).mean()


@torch.no_grad()
def _features(net: ContinualNet, images: Tensor) -> tuple[Tensor, ...]:
    """Features of length 1, [N, w*C] for each width."""
    features = net.backbone(every_width(images))
    assert isinstance(features, WidthBatch)
    return tuple(F.normalize(unhalved(slab)) for slab in features.slabs)
