from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from slimkern.models.branching_resnet import BaseLayer, ExpandLayer, PlainShortcutBlock


def parameters(layer: torch.nn.Module) -> int:
    return sum(own.numel() for own in layer.parameters())


def test_the_published_layers_have_their_sizes() -> None:
    base, expand = BaseLayer(), ExpandLayer(64)
    assert (parameters(base), parameters(expand)) == (167_568, 1_403_392)
    assert (base.channels, expand.features) == (64, 128)


def test_shapes() -> None:
    base, expand = BaseLayer(3, 2), ExpandLayer(8)
    maps = base(torch.randn(2, 3, 32, 32))
    assert maps.shape == (2, 8, 16, 16)
    assert expand(maps).shape == (2, 16)


@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(3, 3, 1), (3, 6, 2), (3, 6, 1)])
def test_a_block_is_two_convolutions_around_a_shortcut_of_pixels_and_zeros(
    inputs: int, outputs: int, stride: int
) -> None:
    torch.manual_seed(0)
    block = PlainShortcutBlock(inputs, outputs, stride).double().eval()
    x = torch.randn(2, inputs, 6, 6, dtype=torch.float64)
    zeros = torch.zeros(2, outputs - inputs, 6 // stride, 6 // stride, dtype=torch.float64)
    shortcut = torch.cat([F.avg_pool2d(x, 1, stride), zeros], 1)
    inner = F.relu(block.bn1(F.conv2d(x, block.conv1.weight, stride=stride, padding=1)))
    expected = F.relu(shortcut + block.bn2(F.conv2d(inner, block.conv2.weight, padding=1)))
    torch.testing.assert_close(block(x), expected)
