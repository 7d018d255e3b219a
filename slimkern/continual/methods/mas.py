"""MAS: memory aware synapses (Aljundi et al. 2018), as FACIL computes them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from slimkern.continual.methods.importance import ImportancePenalty, mean_over_batches
from slimkern.continual.methods.method import Batches
from slimkern.continual.network import ContinualNet


@dataclass
class MAS(ImportancePenalty):
    """Hold the weights that the network's answers depend on near the values that they had.

    F (the paper's Omega, Eq. 2) is the absolute gradient of the mean length of a batch's logits, those of all heads
    together, averaged over batches; the penalty is that of Eq. 3. The paper takes the square of the length in section
    4.1; FACIL takes the length itself and puts a half before the penalty, and so do we.
    """

    def measure(self, net: ContinualNet, batches: Batches) -> dict[str, Tensor]:
        """How strongly the length of the logits depends on each weight."""
        return mean_over_batches(net, batches, lambda logits: logits.norm(dim=1).mean(), Tensor.abs)
