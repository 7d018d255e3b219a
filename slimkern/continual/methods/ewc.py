"""EWC: elastic weight consolidation (Kirkpatrick et al. 2017), as Eq. 8 of ScrollNet uses it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from slimkern.continual.config import ConfigError
from slimkern.continual.methods.method import Batches, Method, Step, classification_loss
from slimkern.continual.network import ContinualNet


@dataclass
class EWC(Method):
    """Hold the weights that mattered for earlier tasks near the values that they had.

    loss = cross-entropy + strength / 2 * sum_i F_i (theta_i - theta*_i)^2 over the backbone's weights (Eq. 8). F is
    measured at width 1.0, at the scroll of its task, as FACIL does: squares of the gradients of a batch's mean
    cross-entropy over all heads with the predicted labels, times the batch size, averaged over batches. Batch norm uses
    the batch's statistics meanwhile, and width 1.0's running ones move, as in FACIL. Parameters of the batch norms of
    narrower widths have F = 0.

    Args:
        strength: lambda in Eq. 8.
        alpha: weight of the earlier tasks' F in the running average; the new one weighs 1 - alpha.
    """

    strength: float = 5000.0
    alpha: float = 0.5
    _penalties: int = field(default=1, init=False)
    _fisher: dict[str, Tensor] = field(default_factory=dict, init=False)
    _anchor: dict[str, Tensor] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.alpha > 1:
            raise ConfigError(f"option alpha={self.alpha} of EWC must be at most 1")

    @classmethod
    def from_options(cls, options: dict[str, float], penalties: int) -> Self:
        """Make the method. The released code adds the penalty once for each width, the paper's Eq. 8 once."""
        method = super().from_options(options, penalties)
        method._penalties = penalties
        return method

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Cross-entropy, and from the second task on the penalty."""
        parts = {"cross-entropy": classification_loss(step.logits, step.labels, step.classes)}
        if self._fisher:
            parts["penalty"] = self._penalties * self.strength / 2 * self._distance(step.net)
        return parts

    def after_task(self, net: ContinualNet, task: int, batches: Batches) -> None:
        """Measure F on the task's training images and remember the weights."""
        new = _fisher(net, batches)
        if self._fisher:
            new = {name: self.alpha * self._fisher[name] + (1 - self.alpha) * fisher for name, fisher in new.items()}
        self._fisher = new
        self._anchor = {name: weight.detach().clone() for name, weight in net.backbone.named_parameters()}

    def state_dict(self) -> dict[str, Any]:
        """F and the remembered weights."""
        return {"fisher": self._fisher, "anchor": self._anchor}

    def load_state_dict(self, state: dict[str, Any], net: ContinualNet) -> None:
        """Take up F and the remembered weights."""
        self._fisher, self._anchor = state["fisher"], state["anchor"]

    def _distance(self, net: ContinualNet) -> Tensor:
        terms = [
            (self._fisher[name] * (weight - self._anchor[name]).square()).sum()
            for name, weight in net.backbone.named_parameters()
        ]
        return torch.stack(terms).sum()


def _fisher(net: ContinualNet, batches: Batches) -> dict[str, Tensor]:
    """The diagonal of the backbone's Fisher matrix, by name; a batch smaller than the first is left out."""
    net.train()
    weights = dict(net.backbone.named_parameters())
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    images_seen, full_batch = 0, 0
    for images, _ in batches:
        full_batch = full_batch or len(images)
        if len(images) < full_batch:
            continue
        logits = net(images)
        assert isinstance(logits, Tensor)
        loss = F.cross_entropy(logits, logits.argmax(1))
        gradients = torch.autograd.grad(loss, list(weights.values()))
        for name, gradient in zip(weights, gradients, strict=True):
            total[name] += gradient.square() * len(images)
        images_seen += len(images)
    return {name: fisher / max(images_seen, 1) for name, fisher in total.items()}
