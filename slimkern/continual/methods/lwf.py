"""LwF: learning without forgetting (Li & Hoiem 2017), as Eq. 7 of ScrollNet uses it."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from slimkern.continual.config import ConfigError
from slimkern.continual.methods.method import Batches, Method, Step, classification_loss
from slimkern.continual.network import ContinualNet


@dataclass
class LwF(Method):
    """Keep the answers of the old heads to new images close to those of the network before the task.

    loss = cross-entropy + strength * distillation (Eq. 7), at width 1.0. The old network answers at the scroll that it
    was trained with.

    Args:
        strength: weight of the distillation, lambda in Eq. 7.
        temperature: T, which both softmaxes are softened by.
    """

    strength: float = 1.0
    temperature: float = 2.0
    _teacher: ContinualNet | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ConfigError(f"option temperature={self.temperature} of LwF must be above 0")

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Cross-entropy, and from the second task on the distillation."""
        parts = {"cross-entropy": classification_loss(step.logits, step.labels, step.classes)}
        if self._teacher is not None:
            with torch.no_grad():
                targets = self._teacher(step.images)
            old = step.logits[:, : targets.shape[1]]
            parts["distillation"] = self.strength * distillation(old, targets, self.temperature)
        return parts

    def after_task(self, net: ContinualNet, task: int, batches: Batches) -> None:
        """Keep a frozen copy of the network, with its scroll."""
        self._teacher = copy.deepcopy(net).eval().requires_grad_(False)

    def state_dict(self) -> dict[str, Any]:
        """The frozen copy's weights, with its scroll in their metadata."""
        if self._teacher is None:
            return {}
        return {"teacher": self._teacher.state_dict(), "heads": len(self._teacher.heads)}

    def load_state_dict(self, state: dict[str, Any], net: ContinualNet) -> None:
        """Build the frozen copy again; it has only the heads that it had."""
        if "teacher" not in state:
            return
        teacher = copy.deepcopy(net)
        teacher.heads = teacher.heads[: state["heads"]]
        teacher.load_state_dict(state["teacher"])
        self._teacher = teacher.eval().requires_grad_(False)


def distillation(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of two softened softmaxes, mean over the batch (Hinton et al. 2015), without a factor T squared.

    FACIL computes the same from powers of the softmax, and smooths the student's by 1e-5; here neither is needed.

    Args:
        logits: of the network being trained, [N, old classes].
        targets: of the old network, likewise.
        temperature: T > 0.
    """
    student = F.log_softmax(logits / temperature, 1)
    return -(F.softmax(targets / temperature, 1) * student).sum(1).mean()
