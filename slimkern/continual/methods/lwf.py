"""LwF: learning without forgetting (Li & Hoiem 2017), as Eq. 7 of ScrollNet uses it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from slimkern.continual.config import ConfigError
from slimkern.continual.methods.method import Step
from slimkern.continual.methods.teacher import TaughtMethod, distillation


@dataclass
class LwF(TaughtMethod):
    """Keep the answers of the old heads to new images close to those of the network before the task.

    loss = cross-entropy + strength * distillation (Eq. 7), at width 1.0.

    Args:
        strength: weight of the distillation, lambda in Eq. 7.
        temperature: T, which both softmaxes are softened by.
    """

    strength: float = 1.0
    temperature: float = 2.0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ConfigError(f"option temperature={self.temperature} of LwF must be above 0")

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Cross-entropy, and from the second task on the distillation."""
        parts = {"cross-entropy": step.cross_entropy}
        if self._teacher is not None:
            with torch.no_grad():
                targets = self._teacher(step.images)
            old = step.logits[:, : targets.shape[1]]
            parts["distillation"] = self.strength * distillation(old, targets, self.temperature)
        return parts
