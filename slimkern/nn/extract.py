"""A sub-network on its own."""

from __future__ import annotations

import copy

from torch import nn

from slimkern.nn.scroll_conv2d import ScrollConv2d
from slimkern.nn.scroll_linear import ScrollLinear
from slimkern.nn.switchable_batch_norm import SwitchableBatchNorm2d


def extract(net: nn.Module, width: float) -> nn.Module:
    """The sub-network of one width as an ordinary module of that size, for export and serving.

    It reads the weights at the present scroll and shares none with `net`. Everything but the slimmable layers is copied
    as it is, so attributes in which a user's module keeps channel counts of its own are those of the whole network.

    Raises:
        ValueError: `width` is none of the network's widths, or it has no slimmable layer.
    """
    slimmable = [m for m in net.modules() if isinstance(m, (ScrollConv2d, ScrollLinear, SwitchableBatchNorm2d))]
    if not slimmable:
        raise ValueError(f"{type(net).__name__} has no slimmable layer; convert it with slimkern.scrollify first")
    # A memo entry tells deepcopy what stands in for an object, so full-size weights are never copied.
    return copy.deepcopy(net, {id(module): module.extract(width) for module in slimmable})
