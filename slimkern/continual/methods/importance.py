"""Methods that hold each weight near its old value, the more the more important it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from slimkern.continual.config import ConfigError
from slimkern.continual.methods.method import Batches, Method, Step
from slimkern.continual.network import ContinualNet


@dataclass
class ImportancePenalty(Method):
    """loss = cross-entropy + strength / 2 * sum_i F_i (theta_i - theta*_i)^2 over the backbone's weights.

    The shape of Eq. 8 of ScrollNet. What makes a weight important, F, is the subclass's; it is measured at width 1.0,
    at the scroll of its task, on that task's own images. Weights stay where they are when the network scrolls, so F and
    theta* need no scrolling. Parameters of the batch norms of narrower widths have F = 0.

    Args:
        strength: lambda in Eq. 8.
        alpha: weight of the earlier tasks' F in the running average; the new one weighs 1 - alpha.
    """

    strength: float = 1.0
    alpha: float = 0.5
    _penalties: int = field(default=1, init=False)
    _importance: dict[str, Tensor] = field(default_factory=dict, init=False)
    _anchor: dict[str, Tensor] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.alpha > 1:
            raise ConfigError(f"option alpha={self.alpha} of {type(self).__name__} must be at most 1")

    @classmethod
    def from_options(cls, options: dict[str, float], penalties: int) -> Self:
        """Make the method. The released code adds the penalty once for each width, the paper's Eq. 8 once."""
        method = super().from_options(options, penalties)
        method._penalties = penalties
        return method

    def measure(self, net: ContinualNet, batches: Batches) -> dict[str, Tensor]:
        """F of the backbone's weights, by name."""
        raise NotImplementedError

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Cross-entropy, and from the second task on the penalty."""
        parts = {"cross-entropy": step.cross_entropy}
        if self._importance:
            parts["penalty"] = self._penalties * self.strength / 2 * self._distance(step.net)
        return parts

    def after_task(self, net: ContinualNet, task: int, batches: Batches) -> None:
        """Measure F on the task's training images and remember the weights."""
        new = self.measure(net, batches)
        if self._importance:
            new = {name: self.alpha * self._importance[name] + (1 - self.alpha) * own for name, own in new.items()}
        self._importance = new
        self._anchor = {name: weight.detach().clone() for name, weight in net.backbone.named_parameters()}

    def state_dict(self) -> dict[str, Any]:
        """F and the remembered weights."""
        return {"importance": self._importance, "anchor": self._anchor}

    def load_state_dict(self, state: dict[str, Any], net: ContinualNet) -> None:
        """Take up F and the remembered weights."""
        self._importance, self._anchor = state["importance"], state["anchor"]

    def _distance(self, net: ContinualNet) -> Tensor:
        terms = [
            (self._importance[name] * (weight - self._anchor[name]).square()).sum()
            for name, weight in net.backbone.named_parameters()
        ]
        return torch.stack(terms).sum()


def mean_over_batches(
    net: ContinualNet, batches: Batches, loss: Callable[[Tensor], Tensor], of_gradient: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """A function of the gradient of each full batch's loss, weighed by the batch's images, divided by all of them.

    As in FACIL, batch norm uses the batch's statistics meanwhile, and width 1.0's running ones move.

    Args:
        net: gives the logits [N, classes seen] at width 1.0.
        batches: a batch smaller than the first is left out.
        loss: of logits, a scalar.
        of_gradient: pointwise.

    Returns:
        By name, for each of the backbone's weights.
    """
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
        gradients = torch.autograd.grad(loss(logits), list(weights.values()))
        for name, gradient in zip(weights, gradients, strict=True):
            total[name] += of_gradient(gradient) * len(images)
        images_seen += len(images)
    return {name: sums / max(images_seen, 1) for name, sums in total.items()}
