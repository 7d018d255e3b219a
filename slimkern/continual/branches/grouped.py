"""A network of branches in one pass: each layer of all branches is one call of `branch_conv2d`.

A branch in evaluation mode has its batch norms folded into the convolutions before them, and where nothing is to be
differentiated, ReLU and the shortcut are computed in place. On a CPU such a branch goes through by itself, as `frozen`
says: there a launch costs nothing, and its maps stay in the cache from layer to layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from slimkern.continual.branches.folding import folded
from slimkern.continual.branches.frozen import frozen_blocks, frozen_convolution, serves
from slimkern.models.branching_resnet import BaseLayer, ExpandLayer, PlainShortcutBlock
from slimkern.ops import branch_conv2d


def grouped(branches: Sequence[ExpandLayer], maps: Tensor) -> list[Tensor]:
    """What each branch gives for the same maps, as `[branch(maps) for branch in branches]` does.

    Args:
        branches: of one shape; each in training or evaluation mode by itself.
        maps: [N, C, H, W].

    Returns:
        Features [N, 2 * C] of each.
    """
    frozen = [serves(branch.modules(), maps) for branch in branches]
    others = [branch.blocks for branch, own in zip(branches, frozen, strict=True) if not own]
    slabs = [maps]
    for blocks in zip(*others, strict=True):
        slabs = _blocks(cast(Sequence[PlainShortcutBlock], blocks), slabs)
    given = iter(slabs)
    results = [
        frozen_blocks(branch.blocks, maps) if own else next(given) for branch, own in zip(branches, frozen, strict=True)
    ]
    return [result.mean((2, 3)) for result in results]


def base_maps(base: BaseLayer, images: Tensor) -> Tensor:
    """What a base layer gives, as `base(images)` does, by the same means.

    Args:
        base: in training or evaluation mode.
        images: [N, C, H, W].
    """
    if serves(base.modules(), images):
        return frozen_blocks(base.blocks, frozen_convolution(base.conv1, base.bn1, images))
    (stem,) = _normalised([base.conv1], [base.bn1], [images])
    slabs = [F.relu(stem, inplace=True)]
    for block in base.blocks:
        slabs = _blocks([cast(PlainShortcutBlock, block)], slabs)
    return slabs[0]


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
