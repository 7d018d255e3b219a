"""Forward pass and input gradient of `scroll_conv2d` for all slabs, each in one launch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from slimkern.kernels.configurations import Configuration
from slimkern.kernels.geometry import Geometry, Pair
from slimkern.kernels.launch import empty_slab
from slimkern.kernels.scroll_conv2d_plan import backward_plan, forward_plan
from slimkern.kernels.slab_table import SlabTable


def forward(
    slabs: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor] | None,
    table: SlabTable,
    geometry: Geometry,
    configuration: Configuration,
    moments: bool = False,
    products: str | None = None,
) -> tuple[list[Tensor], Tensor | None]:
    """Convolve every slab by its row of the table.

    Args:
        slabs: the input tensors that rows call sources: packed channels-last [N, C, H, W], of one dtype and image size,
            with fewer than 2^31 elements each.
        weights: the tensors that rows call theirs, each seen from its first element on; of the slabs' dtype.
        biases: a vector for each of the weights, or None.
        table: one row a slab.
        geometry: kernel, stride, padding, dilation.
        configuration: tile, warps and stages.
        moments: also give those of the results, for the batch norm that follows.
        products: how those of float32 are formed, ieee or tf32; as PyTorch's switch for convolutions says if None.

    Returns:
        A packed channels-last result [N, outputs, H', W'] a row; float32 [3, pixel tiles, sum of outputs], the count,
        mean and sum of squared deviations of each result channel in each tile of pixels, or None.

    Raises:
        Unsuitable: the configuration doesn't suit the shape; another may.
        ValueError: the weights lie differently in memory.
    """
    batch, _, *image = slabs[0].shape
    sides = geometry.result((image[0], image[1]))
    channels = tuple(slab.shape[1] for slab in slabs)
    plan = forward_plan(table, geometry, batch, (image[0], image[1]), channels, configuration, slabs[0].device)
    results = [empty_slab(slabs[0], batch, row.outputs, sides) for row in table]
    noted = None
    if moments:
        tiles = -(-batch * sides[0] * sides[1] // configuration.pixels)
        noted = slabs[0].new_empty(3, tiles, sum(row.outputs for row in table), dtype=torch.float32)
    plan.launch(slabs, weights, biases, results, noted, products)
    return results, noted


def input_gradient(
    grads: Sequence[Tensor],
    weights: Sequence[Tensor],
    table: SlabTable,
    geometry: Geometry,
    image: Pair,
    configuration: Configuration,
    products: str | None = None,
) -> list[Tensor | None]:
    """Gradients of what each slab read, in one launch; None for frozen slabs.

    Slabs that share an input get one each: their sum is the input's.

    Args:
        grads: of the results, packed channels-last [N, outputs, H', W'], one a row.
        weights: as in `forward`.
        table: one row a slab.
        geometry: that of the forward pass.
        image: height and width of the inputs.
        configuration: tile, warps and stages.
        products: as in `forward`.

    Returns:
        A packed channels-last gradient [N, inputs, H, W] a row, or None.

    Raises:
        ValueError: as in `forward`.
    """
    if not any(row.gradient for row in table):
        return [None] * len(table)
    batch = grads[0].shape[0]
    plan = backward_plan(table, geometry, batch, image, configuration, grads[0].device)
    results = [empty_slab(grads[0], batch if row.gradient else 0, row.inputs, image) for row in table]
    plan.launch(grads, weights, None, results, None, products)
    return [result if row.gradient else None for row, result in zip(table, results, strict=True)]
