"""A network of branches in one pass: each layer of all branches is one call of `branch_conv2d`.

A branch in evaluation mode has its batch norms folded into the convolutions before them; what is folded is derived
from the parameters, kept as long as they stay as they are, and never part of a state dict. Where nothing is to be
differentiated, ReLU and the shortcut are computed in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimkern.models.branching_resnet import BaseLayer, ExpandLayer, PlainShortcutBlock
from slimkern.ops import branch_conv2d

Folded = tuple[Tensor, Tensor]
_KEPT: WeakKeyDictionary[nn.Conv2d, tuple[list[int], Folded]] = WeakKeyDictionary()


def grouped(branches: Sequence[ExpandLayer], maps: Tensor) -> list[Tensor]:
    """What each branch gives for the same maps, as `[branch(maps) for branch in branches]` does.

    Args:
        branches: of one shape; each in training or evaluation mode by itself.
        maps: [N, C, H, W].

    Returns:
        Features [N, 2 * C] of each.
    """
    slabs = [maps]
    for blocks in zip(*(branch.blocks for branch in branches), strict=True):
        slabs = _blocks(cast(Sequence[PlainShortcutBlock], blocks), slabs)
    return [slab.mean((2, 3)) for slab in slabs]


def base_maps(base: BaseLayer, images: Tensor) -> Tensor:
    """What a base layer gives, as `base(images)` does, by the same means.

    Args:
        base: in training or evaluation mode.
        images: [N, C, H, W].
    """
    (stem,) = _normalised([base.conv1], [base.bn1], [images])
    slabs = [F.relu(stem, inplace=True)]
    for block in base.blocks:
        slabs = _blocks([cast(PlainShortcutBlock, block)], slabs)
    return slabs[0]


def folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Folded:
    """Weight and bias of the convolution that does both, the batch norm in evaluation mode.

    Without gradients it is computed once, and again when a tensor that it is made of has changed.
    """
    # From the dictionaries, as a module looks names up slowly and every convolution comes here in every step.
    learned = (conv._parameters["weight"], norm._parameters["weight"], norm._parameters["bias"])
    differentiated = torch.is_grad_enabled() and any(own is not None and own.requires_grad for own in learned)
    if differentiated or torch.compiler.is_compiling() or torch.is_inference_mode_enabled():
        return _fold(conv, norm)
    sources = (*learned, *norm._buffers.values())
    places = [number for own in sources if own is not None for number in (own.data_ptr(), own._version)]
    found = _KEPT.get(conv)
    if found is None or found[0] != places:
        found = _KEPT[conv] = places, _fold(conv, norm)
    return found[1]


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Folded:
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    weight = conv.weight * scale[:, None, None, None]
    return weight.contiguous(memory_format=torch.channels_last), norm.bias - norm.running_mean * scale


def _blocks(blocks: Sequence[PlainShortcutBlock], slabs: Sequence[Tensor]) -> list[Tensor]:
    first = _normalised([block.conv1 for block in blocks], [block.bn1 for block in blocks], slabs)
    middle = [F.relu(slab, inplace=True) for slab in first]
    results = _normalised([block.conv2 for block in blocks], [block.bn2 for block in blocks], middle)
    sources = slabs if len(slabs) == len(blocks) else [slabs[0]] * len(blocks)
    return [_added(block, result, source) for block, result, source in zip(blocks, results, sources, strict=True)]


def _normalised(convs: Sequence[nn.Conv2d], norms: Sequence[nn.BatchNorm2d], slabs: Sequence[Tensor]) -> list[Tensor]:
    pairs = [
        (conv.weight, None) if norm.training else folded(conv, norm) for conv, norm in zip(convs, norms, strict=True)
    ]
    weights, biases = ([pair[own] for pair in pairs] for own in (0, 1))
    (stride, padding) = (cast(tuple[int, int], own) for own in (convs[0].stride, convs[0].padding))
    results = branch_conv2d(slabs, cast(list[Tensor], weights), biases, stride, padding)
    return [norm(own) if norm.training else own for norm, own in zip(norms, results, strict=True)]


def _added(block: PlainShortcutBlock, result: Tensor, source: Tensor) -> Tensor:
    """The result of the convolutions, the shortcut added, through the last ReLU."""
    if result.requires_grad or source.requires_grad:
        return F.relu(result + block.shortcut(source), inplace=True)
    seen = block.seen(source)
    result[:, : seen.shape[1]].add_(seen)
    return result.relu_()
