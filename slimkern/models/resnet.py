"""ResNet-18 for small images (He et al. 2016, with the stem that ScrollNet uses)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from slimkern.nn import recomputed, scrollify
from slimkern.widths import Widths


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution where the shape changes.

    Attributes:
        signed: leave out the last ReLU.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.signed = False
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C', H / stride, W / stride]."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out)) + self.shortcut(x)
        return out if self.signed else F.relu(out, inplace=True)


class ResNet(nn.Module):
    """A 3x3 stem of stride 1 without max-pooling, four stages of two blocks, global average pooling, and a head.

    Attributes:
        features: channels C of the pooled features.
        recompute: keep only what goes between the stages in training, and compute the rest again for the gradient.
    """

    def __init__(self, num_classes: int | None, in_channels: int, channels: int, recompute: bool = False) -> None:
        super().__init__()
        self.recompute = recompute
        self.conv1 = nn.Conv2d(in_channels, channels, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        sizes = [channels, channels, 2 * channels, 4 * channels, 8 * channels]
        self.stages = nn.Sequential(
            *(
                nn.Sequential(BasicBlock(inputs, outputs, 1 + (stage > 0)), BasicBlock(outputs, outputs, 1))
                for stage, (inputs, outputs) in enumerate(pairwise(sizes))
            )
        )
        self.features = sizes[-1]
        self.head = nn.Linear(self.features, num_classes) if num_classes is not None else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def keep_signs(self) -> None:
        """Leave out the last ReLU, so that features have both signs, as cosine classifiers need them."""
        cast(BasicBlock, cast(nn.Sequential, self.stages[-1])[-1]).signed = True

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, C, H, W] to logits [N, classes], or to features [N, 8 * channels] without a head."""
        return self.head(self.pooled(self.maps(x)))

    def maps(self, x: Any) -> Any:
        """Images [N, C, H, W], or a WidthBatch of them, to what the last stage gives: [N, 8 * channels, H', W']."""
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        for stage in self.stages:
            x = recomputed(stage, x) if self.recompute else stage(x)
        return x

    def pooled(self, maps: Any) -> Any:
        """The last stage's maps to features [N, 8 * channels], their means over the image."""
        return F.adaptive_avg_pool2d(maps, 1).flatten(1)


def resnet18(
    num_classes: int | None = 100,
    widths: int | Sequence[float] | Widths | None = None,
    in_channels: int = 3,
    channels: int = 64,
    recompute: bool = False,
) -> ResNet:
    """ResNet-18 as the ScrollNet paper uses it for images of 32x32 (CIFAR) and 64x64 (Tiny ImageNet) pixels.

    Args:
        num_classes: outputs of the head; None for a network that gives its features, to be followed by other heads.
        widths: make it slimmable at these widths; None for an ordinary network.
        in_channels: channels of the images.
        channels: channels of the first stage; 64 in the paper.
        recompute: trade time for memory in training: see `ResNet`.

    Raises:
        ValueError: `channels` that the widths don't divide.
    """
    net = ResNet(num_classes, in_channels, channels, recompute)
    if widths is None:
        return net
    return scrollify(net, widths, whole_in=["conv1"], whole_out=[] if num_classes is None else ["head"])
