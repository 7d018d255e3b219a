"""One training step, the same whether it runs eagerly, compiled or recorded."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from slimkern.continual.data.augment import Augmentation
from slimkern.continual.loss_ring import LossRing
from slimkern.continual.methods.method import Method, Step
from slimkern.continual.network import ContinualNet
from slimkern.continual.optimiser import Optimiser
from slimkern.continual.precision import PrecisionName, autocast
from slimkern.continual.processes import ALONE, Processes
from slimkern.width_batch import at_widths, every_width


@dataclass(frozen=True, eq=False)
class TrainStep:
    """Augments a batch, lets all widths answer, and moves the weights; the losses go to a ring on the device.

    Attributes:
        net: the network; it must be in training mode.
        method: says what is lost at width 1.0.
        classes: the labels that cross-entropies choose among.
        optimiser: moves the weights.
        augmentation: from bytes to the network's input.
        precision: what the forward pass computes in; losses are float32.
        ring: receives the named parts of the loss.
        processes: those that share each batch.
    """

    net: ContinualNet
    method: Method
    classes: range
    optimiser: Optimiser
    augmentation: Augmentation
    precision: PrecisionName
    ring: LossRing
    processes: Processes = ALONE

    def __call__(self, images: Tensor, labels: Tensor, widths: tuple[float, ...] | None = None) -> None:
        """Take a step; nothing is read back.

        Args:
            images: uint8 [N, C, H, W].
            labels: int64 [N], within `classes`.
            widths: ascending, the last one 1.0; None for all of the network's.
        """
        augmented = self.augmentation(images).contiguous(memory_format=torch.channels_last)
        own, own_labels, share = self.processes.share(augmented, labels)
        parts = {name: share * part for name, part in self.losses(own, own_labels, widths).items()}
        self.optimiser.step(torch.stack(list(parts.values())).sum())
        self.ring.write(parts)

    def losses(self, images: Tensor, labels: Tensor, widths: tuple[float, ...] | None = None) -> dict[str, Tensor]:
        """The parts of the loss: the method's at width 1.0, and a cross-entropy at each other (Eq. 6 of ScrollNet).

        Args:
            images: augmented, float32 [N, C, H, W].
            labels: as in a call.
            widths: as in a call.
        """
        with autocast(self.precision, images.device):
            maps = self.net.backbone.maps(every_width(images) if widths is None else at_widths(images, widths))
            *narrower, own = self.net.cross_entropies(maps, labels, self.classes).unbind()
            parts = self.method.losses(Step(self.net, images, labels, self.classes, maps.at(1.0), own))
            for (width, _), loss in zip(maps, narrower, strict=False):
                parts[f"cross-entropy at {width:g}"] = loss
        return parts
