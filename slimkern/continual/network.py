"""A slimmable backbone with one head per task."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from slimkern.models.resnet import ResNet
from slimkern.nn import ScrollLinear, current_scroll
from slimkern.width_batch import WidthBatch
from slimkern.widths import Widths


class ContinualNet(nn.Module):
    """A network that grows a head for each task; its logits are those of all heads, side by side.

    Attributes:
        widths: the widths of the backbone and of the heads' inputs; classes are a whole axis.
    """

    def __init__(self, backbone: ResNet, widths: Widths) -> None:
        super().__init__()
        self.widths = widths
        self.backbone = backbone
        self.heads = nn.ModuleList()

    def add_head(self, classes: int) -> None:
        """Add a head for `classes` more classes, at the backbone's device and scroll."""
        head = ScrollLinear(self.backbone.features, classes, widths=self.widths, whole_out=True)
        head.scroll = current_scroll(self.backbone)
        self.heads.append(head.to(next(self.backbone.parameters()).device))

    def forward(self, images: Tensor | WidthBatch) -> Tensor | WidthBatch:
        """Images [N, C, H, W] to logits [N, classes seen], at width 1.0 or at the widths of a WidthBatch."""
        features = self.backbone(images)
        outputs = [head(features) for head in self.heads]
        if not isinstance(features, WidthBatch):
            return torch.cat(outputs, 1)
        own = zip(*(output.slabs for output in outputs), strict=True)
        return WidthBatch([torch.cat(logits, 1) for logits in own], outputs[0].widths)
