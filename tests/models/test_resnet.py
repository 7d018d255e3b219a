from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torchvision import models

from slimkern import ScrollConv2d, SwitchableBatchNorm2d, every_width
from slimkern.models import resnet18


def with_small_stem() -> nn.Module:
    """torchvision's ResNet-18 with a 3x3 stem of stride 1 and no max-pooling."""
    net: Any = models.resnet18(num_classes=100)
    net.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    net.maxpool = nn.Identity()
    return net


@torch.no_grad()
def test_is_torchvisions_with_a_small_stem() -> None:
    torch.manual_seed(0)
    reference, net = with_small_stem().eval(), resnet18(num_classes=100).eval()
    given = reference.state_dict()
    # Both register their layers in the order of their use.
    net.load_state_dict(dict(zip(net.state_dict(), given.values(), strict=True)))
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(net(images), reference(images))
    assert sum(parameter.numel() for parameter in net.parameters()) == 11_220_132


@torch.no_grad()
@pytest.mark.parametrize("widths", [4, 2, (0.25, 1.0)], ids=str)
def test_every_width_gives_all_classes(widths: int | tuple[float, ...]) -> None:
    net: Any = resnet18(num_classes=7, widths=widths, in_channels=1, channels=8).eval()
    results = net(every_width(torch.randn(2, 1, 8, 8)))
    assert results.widths == net.conv1.widths.fractions
    assert [tuple(logits.shape) for logits in results.slabs] == [(2, 7)] * len(results)
    assert net.conv1.whole_in and net.head.whole_out


@torch.no_grad()
def test_without_a_head_it_gives_the_features_of_each_width() -> None:
    net = resnet18(num_classes=None, widths=4, channels=8).eval()
    assert net.features == 64
    assert [slab.shape[1] for slab in net(every_width(torch.randn(2, 3, 8, 8))).slabs] == [16, 32, 48, 64]


def test_only_the_ends_are_whole() -> None:
    net = resnet18(widths=4, channels=8)
    convolutions = {name: module for name, module in net.named_modules() if isinstance(module, ScrollConv2d)}
    assert [name for name, conv in convolutions.items() if conv.whole_in or conv.whole_out] == ["conv1"]
    assert len(convolutions) == 20
    assert sum(isinstance(module, SwitchableBatchNorm2d) for module in net.modules()) == 20


def test_channels_that_widths_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="6 can't be cut into the 4 blocks"):
        resnet18(widths=4, channels=6)
