"""EWC: elastic weight consolidation (Kirkpatrick et al. 2017), as Eq. 8 of ScrollNet uses it."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from slimkern.continual.methods.importance import ImportancePenalty, mean_over_batches
from slimkern.continual.methods.method import Batches
from slimkern.continual.network import ContinualNet


@dataclass
class EWC(ImportancePenalty):
    """Hold the weights that mattered for earlier tasks near the values that they had.

    F is the diagonal of the Fisher matrix as FACIL measures it: the square of the gradient of a batch's mean
    cross-entropy over all heads with the predicted labels, averaged over batches.
    """

    strength: float = 5000.0

    def measure(self, net: ContinualNet, batches: Batches) -> dict[str, Tensor]:
        """The diagonal of the Fisher matrix."""
        return mean_over_batches(net, batches, lambda logits: F.cross_entropy(logits, logits.argmax(1)), Tensor.square)
