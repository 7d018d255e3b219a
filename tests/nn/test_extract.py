from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from slimkern import ScrollConv2d, ScrollLinear, SwitchableBatchNorm2d, extract, scroll_to


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = ScrollConv2d(3, 8, 3, whole_in=True)
        self.norm = SwitchableBatchNorm2d(8)
        self.scale = nn.Parameter(torch.ones(1))
        self.head = ScrollLinear(8, 5, whole_out=True)
        self.note = {"classes": 5}


def test_slimmable_layers_become_ordinary_ones_of_that_size() -> None:
    small = extract(Net().eval(), 0.5)
    assert [type(module) for module in small.children()] == [nn.Conv2d, nn.BatchNorm2d, nn.Linear]
    assert {name: tuple(parameter.shape) for name, parameter in small.named_parameters()} == {
        "scale": (1,), "stem.weight": (4, 3, 3, 3), "stem.bias": (4,), "norm.weight": (4,), "norm.bias": (4,),
        "head.weight": (5, 4), "head.bias": (5,),
    }  # fmt: skip
    assert not any(module.training for module in small.modules())


@pytest.mark.parametrize("scroll", range(4))
def test_weights_are_those_at_the_present_scroll(scroll: int) -> None:
    net: Any = Net()
    scroll_to(net, scroll)
    small: Any = extract(net, 0.5)
    channels = [(position + 2 * scroll) % 8 for position in range(4)]
    assert torch.equal(small.stem.weight, net.stem.weight[channels])
    assert torch.equal(small.head.weight, net.head.weight[:, channels])


def test_nothing_is_shared() -> None:
    net = Net()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    small: Any = extract(net, 1.0)
    for tensor in small.state_dict().values():
        tensor.fill_(7)
    small.note["classes"] = 7
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert net.note == {"classes": 5}


def test_a_layer_used_twice_stays_one_layer() -> None:
    layer = ScrollLinear(8, 8)
    small: Any = extract(nn.Sequential(layer, nn.ReLU(), layer), 0.25)
    assert small[0] is small[2] and small[0].in_features == 2


def test_a_single_layer_can_be_extracted() -> None:
    assert type(extract(ScrollLinear(8, 8), 0.25)) is nn.Linear


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"Linear has no slimmable layer; convert it with slimkern.scrollify first"):
        extract(nn.Linear(2, 2), 0.5)
    with pytest.raises(ValueError, match=r"width 0.3 is none of this network's widths"):
        extract(Net(), 0.3)
