"""Methods that learn from the network as it was before the present task."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from slimkern.continual.methods.method import Batches, Method
from slimkern.continual.network import ContinualNet


@dataclass
class TaughtMethod(Method):
    """Keeps a frozen copy of the network after each task, the teacher of the next one.

    The teacher answers at width 1.0 and at the scroll that it was trained with, so its logits are what they were. Its
    features are in the order of its own scroll: compare them by `ContinualNet.by_channel`.
    """

    _teacher: ContinualNet | None = field(default=None, init=False)

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
