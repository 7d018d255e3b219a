"""ResNet-32 cut into a base layer and expand layers, as SCL-PNC uses it for small images (after MEMO)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

_BLOCKS = 5


class PlainShortcutBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut without parameters, which skips pixels and appends channels of zeros."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride, self.appended = stride, outputs - inputs
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C', H / stride, W / stride]."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x), inplace=True)

    def shortcut(self, x: Tensor) -> Tensor:
        """What is added to the convolutions' result: every stride-th pixel, then zeros in place of further channels."""
        seen = self.seen(x)
        return F.pad(seen, (0, 0, 0, 0, 0, self.appended)) if self.appended else seen

    def seen(self, x: Tensor) -> Tensor:
        """Every stride-th pixel."""
        return x if self.stride == 1 else x[:, :, :: self.stride, :: self.stride]


class BaseLayer(nn.Module):
    """What all branches read: [N, in_channels, H, W] to maps [N, 4 * channels, H / 2, W / 2].

    A 3x3 stem, a stage of five blocks, one of five blocks with stride 2, and one block more that doubles the channels,
    which MEMO doesn't have.

    Attributes:
        channels: of its maps.
    """

    def __init__(self, in_channels: int = 3, channels: int = 16) -> None:
        super().__init__()
        self.channels = 4 * channels
        self.conv1 = nn.Conv2d(in_channels, channels, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.blocks = nn.Sequential(
            *_stage(channels, channels, 1),
            *_stage(channels, 2 * channels, 2),
            PlainShortcutBlock(2 * channels, 4 * channels, 1),
        )
        _initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Images to maps."""
        return self.blocks(F.relu(self.bn1(self.conv1(images)), inplace=True))


class ExpandLayer(nn.Module):
    """A branch: the base layer's maps [N, C, H, W] to features [N, 2 * C]; five blocks and a mean over the image.

    Attributes:
        features: how many it gives.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.features = 2 * in_channels
        self.blocks = nn.Sequential(*_stage(in_channels, self.features, 2))
        _initialise(self)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps to features."""
        return self.blocks(maps).mean((2, 3))


def _stage(inputs: int, outputs: int, stride: int) -> list[PlainShortcutBlock]:
    first = PlainShortcutBlock(inputs, outputs, stride)
    return [first, *(PlainShortcutBlock(outputs, outputs, 1) for _ in range(_BLOCKS - 1))]


def _initialise(layer: nn.Module) -> None:
    for module in layer.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
