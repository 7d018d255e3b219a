"""Forward pass of a convolution whose input all slabs share, as the first one's of a network is.

Nested sub-networks that see the same input give the same results as far as they go: every result channel is computed
once, and stored in the slab of each sub-network that has it.
"""

from __future__ import annotations

from math import gcd
from typing import Any

import torch
from torch import Tensor

from slimkern.kernels.configurations import Configuration
from slimkern.kernels.geometry import Geometry
from slimkern.kernels.launch import INTERPRETED, empty_slab, precision
from slimkern.kernels.scroll_conv2d_few_channels import gather_few_channels
from slimkern.kernels.slab_table import SlabTable


def takes(table: SlabTable) -> bool:
    """Whether all slabs see the same channels of one input through nested widths of one weight."""
    return len({(row.source, row.first_input, row.inputs, row.weight) for row in table}) == 1


def forward_shared(
    slab: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    table: SlabTable,
    geometry: Geometry,
    configuration: Configuration,
    moments: bool = False,
    products: str | None = None,
) -> tuple[list[Tensor], Tensor | None]:
    """As `scroll_conv2d.forward` for a table that `takes` accepts; the input may lie in memory as it likes.

    Args:
        slab: [N, C, H, W], the input of all slabs.
        weight: [C_out, C, height, width], read in place.
        bias: [C_out] or None.
        table: one row a slab.
        geometry: kernel, stride, padding, dilation.
        configuration: tile, warps and stages; its depth counts pairs of a tap and a channel.
        moments: also give those of the results.
        products: as in `scroll_conv2d.forward`.
    """
    row = table[0]
    source = slab[:, row.first_input : row.first_input + row.inputs]
    sides = geometry.result((slab.shape[2], slab.shape[3]))
    outputs = [own.outputs for own in table]
    results = [empty_slab(slab, slab.shape[0], count, sides) for count in outputs]
    tiles = -(-slab.shape[0] * sides[0] * sides[1] // configuration.pixels)
    noted = slab.new_empty(3, tiles, sum(outputs), dtype=torch.float32) if moments else None
    kernel: Any = gather_few_channels
    kernel[(tiles, -(-max(outputs) // configuration.channels))](
        source,
        weight,
        bias,
        tuple(results),
        noted,
        source.stride(),
        weight.stride(),
        tuple(outputs),
        (row.weight.out_offset, row.weight.in_offset),
        tuple(weight.shape[:2]),
        slab.shape[0],
        *slab.shape[2:],
        *sides,
        sum(outputs),
        INPUTS=row.inputs,
        KERNEL=geometry.kernel,
        STRIDE=geometry.stride,
        PADDING=geometry.padding,
        DILATION=geometry.dilation,
        ALIGNMENT=gcd(8, *outputs),
        PIXELS=configuration.pixels,
        CHANNELS=configuration.channels,
        BLOCK_DEPTH=configuration.depth,
        PRECISION=products or precision(slab.dtype),
        UPCAST=INTERPRETED,
        num_warps=configuration.warps,
        num_stages=configuration.stages,
    )
    return results, noted
