"""A slimmable backbone with one head per task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimkern.models.resnet import ResNet
from slimkern.nn import ScrollLinear, cross_entropies, current_scroll
from slimkern.width_batch import WidthBatch
from slimkern.widths import Widths


class ContinualNet(nn.Module):
    """A network that grows a head for each task; its logits are those of all heads, side by side.

    Args:
        backbone: images to features.
        widths: the widths of the backbone and of the heads' inputs; classes are a whole axis.
        head: the kind of head, made as `ScrollLinear` is.
        scale: applied to the logits of all heads together.
    """

    def __init__(
        self, backbone: ResNet, widths: Widths, head: type[ScrollLinear] = ScrollLinear, scale: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.widths = widths
        self.backbone = backbone
        self.heads = nn.ModuleList()
        self.scale = scale or nn.Identity()
        self._head = head

    @property
    def classes(self) -> int:
        """Number of classes seen, those of all heads."""
        return sum(cast(ScrollLinear, head).out_features for head in self.heads)

    def add_head(self, classes: int) -> None:
        """Add a head for `classes` more classes, of the backbone's device, dtype and scroll."""
        head = self._head(self.backbone.features, classes, widths=self.widths, whole_out=True)
        head.scroll = current_scroll(self.backbone)
        self.heads.append(head.to(next(self.backbone.parameters())))

    def forward(self, images: Tensor | WidthBatch) -> Tensor | WidthBatch:
        """Images [N, C, H, W] to logits [N, classes seen], at width 1.0 or at the widths of a WidthBatch."""
        return self.classify(self.backbone(images))

    def classify(self, features: Tensor | WidthBatch) -> Tensor | WidthBatch:
        """The backbone's features [N, w*C] to logits [N, classes seen], in kind."""
        outputs = [head(features) for head in self.heads]
        if not isinstance(features, WidthBatch):
            return self.scale(torch.cat(outputs, 1))
        own = zip(*(output.slabs for output in outputs), strict=True)
        return self.scale(WidthBatch([torch.cat(logits, 1) for logits in own], outputs[0].widths))

    def cross_entropies(self, maps: WidthBatch, labels: Tensor, classes: range) -> Tensor:
        """The mean cross-entropy over consecutive classes of each width (a term of Eq. 4 of ScrollNet), [S].

        Args:
            maps: the backbone's last maps.
            labels: int64 [N], all within `classes`.
            classes: the labels to choose among.
        """
        if type(self.scale) is nn.Identity and all(type(head) is ScrollLinear for head in self.heads):
            return cross_entropies(maps, cast(Sequence[ScrollLinear], self.heads), labels, classes)
        answers = cast(WidthBatch, self.classify(self.backbone.pooled(maps)))
        competing = (unhalved(logits[:, classes.start : classes.stop]) for _, logits in answers)
        return torch.stack([F.cross_entropy(logits, labels - classes.start) for logits in competing])

    def by_channel(self, features: Tensor) -> Tensor:
        """Features of width 1.0 [N, C] in the order of the stored channels, which no scroll changes.

        Position j is channel (j + scroll * block) mod C, so features of one network at two scrolls compare like this.
        """
        return features.roll(self.widths.offset(self.backbone.features, current_scroll(self.backbone)), 1)


def unhalved(tensor: Tensor) -> Tensor:
    """Half precision, as autocast gives it, in float32; anything else as it is."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
