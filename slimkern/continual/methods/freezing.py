"""Freezing: the backbone stays as the first task left it. No forgetting, and features of the first task alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from slimkern.continual.methods.finetuning import FineTuning
from slimkern.continual.network import ContinualNet


@dataclass
class Freezing(FineTuning):
    """Cross-entropy on heads alone from the second task on; the statistics of batch norm are frozen with the backbone.

    The network doesn't scroll: batch norms belong to positions, and frozen ones can't get used to other channels.
    """

    scrolls: ClassVar[bool] = False

    def frozen(self, net: ContinualNet, rehearsing: bool) -> Sequence[nn.Module]:
        """What fine-tuning freezes, and after the first task the backbone."""
        backbone = [net.backbone] if len(net.heads) > 1 else []
        return [*super().frozen(net, rehearsing), *backbone]
