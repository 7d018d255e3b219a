"""Heads of methods that don't classify by a linear layer alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimkern.continual.network import unhalved
from slimkern.continual.precision import without_autocast
from slimkern.nn import ScrollLinear
from slimkern.width_batch import WidthBatch


class CosineHead(ScrollLinear):
    """The cosine between features and each class's weights, both as far as a sub-network has them (LUCIR, Eq. 4).

    Takes the arguments of `ScrollLinear` and has no bias. Cosines are float32 under autocast too: half precision can't
    tell those near 1 apart.
    """

    def __init__(self, features: int, classes: int, **slimming: Any) -> None:
        super().__init__(features, classes, bias=False, **slimming)

    def forward(self, input: Tensor | WidthBatch) -> Tensor | WidthBatch:
        """Features [N, w*C] to cosines [N, classes]."""
        if isinstance(input, WidthBatch):
            return self._answer(input, -1, self._apply_slabs)
        return self._apply_slabs([input], [self.out_features])[0]

    def _apply_slabs(self, slabs: Sequence[Tensor], outputs: list[int]) -> list[Tensor]:
        _, in_offset = self._offsets()
        weight = self.weight.roll(-in_offset, 1)
        with without_autocast(weight.device):
            return [F.linear(F.normalize(unhalved(slab)), F.normalize(weight[:, : slab.shape[1]])) for slab in slabs]

    def extract(self, width: float) -> CosineHead:
        """The head of one sub-network, with weights of its own."""
        part = super().extract(width)
        head = CosineHead(part.in_features, part.out_features, widths=1, whole_out=True, device="meta")
        head.weight = part.weight
        return head.train(self.training)


class Scale(nn.Module):
    """A learned factor, 1 at first, for the cosines of all heads (eta in LUCIR, Eq. 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, cosines: Tensor | WidthBatch) -> Tensor | WidthBatch:
        """Cosines of any shape to logits, in kind."""
        return cosines * self.factor


class CorrectedHead(ScrollLinear):
    """A linear head whose logits o become alpha * o + beta, with an alpha and a beta for each width (BiC, Eq. 4).

    They are buffers, at first 1 and 0, that a method sets between tasks; gradients pass through them and leave them.
    """

    alpha: Tensor
    beta: Tensor

    def __init__(self, *args: Any, **slimming: Any) -> None:
        super().__init__(*args, **slimming)
        self.register_buffer("alpha", torch.ones(len(self.widths.fractions)))
        self.register_buffer("beta", torch.zeros(len(self.widths.fractions)))

    def forward(self, input: Tensor | WidthBatch) -> Tensor | WidthBatch:
        """Features [N, w*C] to corrected logits [N, classes]."""
        logits = super().forward(input)
        if isinstance(logits, Tensor):
            return logits * self.alpha[-1] + self.beta[-1]
        own = ((slab, self.widths.index(width)) for width, slab in logits)
        return WidthBatch([slab * self.alpha[at] + self.beta[at] for slab, at in own], logits.widths)

    def extract(self, width: float) -> nn.Linear:
        """An ordinary `torch.nn.Linear` into which the correction of this width is folded."""
        linear, at = super().extract(width), self.widths.index(width)
        with torch.no_grad():
            linear.weight.mul_(self.alpha[at])
            linear.bias.mul_(self.alpha[at]).add_(self.beta[at])
        return linear
