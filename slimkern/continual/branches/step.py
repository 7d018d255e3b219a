"""One training step of a network of branches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from slimkern.continual.branches.network import BranchNet
from slimkern.continual.data.augment import Augmentation
from slimkern.continual.loss_ring import LossRing
from slimkern.continual.methods.scl_pnc import SCLPNC
from slimkern.continual.network import unhalved
from slimkern.continual.optimiser import Optimiser
from slimkern.continual.precision import PrecisionName, autocast


@dataclass(frozen=True, eq=False)
class BranchStep:
    """Augments a batch, lets all branches answer in one pass, and moves what isn't frozen.

    Attributes:
        net: the network; parts of it may be in evaluation mode.
        method: says what is lost.
        optimiser: moves the weights.
        augmentation: from bytes to the network's input.
        precision: what the forward pass computes in; losses are float32.
        ring: receives the named parts of the loss.
        summed: with two branches, the first one's part in the distillation is taken by the sum of both, which the
            released code has there by accident.
    """

    net: BranchNet
    method: SCLPNC
    optimiser: Optimiser
    augmentation: Augmentation
    precision: PrecisionName
    ring: LossRing
    summed: bool = False

    def __call__(self, images: Tensor, labels: Tensor, distil: bool) -> None:
        """Take a step; nothing is read back.

        Args:
            images: uint8 [N, C, H, W].
            labels: int64 [N].
            distil: whether the last branch is compared with the one before it.
        """
        augmented = self.augmentation(images).contiguous(memory_format=torch.channels_last)
        parts = self.losses(augmented, labels, distil)
        self.optimiser.step(torch.stack(list(parts.values())).sum())
        self.ring.write(parts)

    def losses(self, images: Tensor, labels: Tensor, distil: bool) -> dict[str, Tensor]:
        """The parts of the loss.

        Args:
            images: augmented, float32 [N, C, H, W].
            labels: as in a call.
            distil: as in a call.
        """
        with autocast(self.precision, images.device):
            features = [unhalved(own) for own in self.net.backbone.each(images)]
            directions = unhalved(self.net.classifier.directions(self.net.fused(torch.cat(features, 1))))
        last_two = self._compared(features) if distil else ()
        return self.method.parts(directions, self.net.classifier.head.frame, labels, last_two)

    def _compared(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        *_, older, newer = features
        return (older + newer if self.summed and len(features) == 2 else older), newer
