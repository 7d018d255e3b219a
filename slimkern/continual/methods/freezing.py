"""Freezing: the backbone stays as the first task left it. No forgetting, and features of the first task alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from slimkern.continual.methods.finetuning import FineTuning
from slimkern.continual.network import ContinualNet
from slimkern.nn import scroll_to


@dataclass
class Freezing(FineTuning):
    """Cross-entropy on heads alone from the second task on; the statistics of batch norm are frozen with the backbone.

    So is its scroll: batch norms belong to positions, and a frozen one can't get used to another channel.
    """

    def frozen(self, net: ContinualNet, rehearsing: bool) -> Sequence[nn.Module]:
        """What fine-tuning freezes, and after the first task the backbone."""
        backbone = [net.backbone] if len(net.heads) > 1 else []
        return [*super().frozen(net, rehearsing), *backbone]

    def before_task(self, net: ContinualNet, task: int) -> None:
        """Scroll back to the first task."""
        scroll_to(net, task=0)
