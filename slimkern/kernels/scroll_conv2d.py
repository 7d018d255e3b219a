"""Forward pass and input gradient of `scroll_conv2d` for all slabs, each in one launch.

What the kernel is launched by (rows, tiles, their shares) is planned once for each shape and kept on the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from slimkern.kernels.configurations import Configuration
from slimkern.kernels.geometry import Geometry, Pair
from slimkern.kernels.launch import INTERPRETED, empty_slab, on_device, precision, programs
from slimkern.kernels.scroll_conv2d_gather import GatherRow, gather
from slimkern.kernels.scroll_conv2d_rows import (
    Walk,
    alignment,
    backward_rows,
    backward_walk,
    column_stride,
    forward_rows,
    forward_walk,
)
from slimkern.kernels.slab_table import SlabTable
from slimkern.kernels.tile_plan import TileGrid, plan_tiles

PLANS = 4096
"""Plans that are kept; a network needs one for each pass of each layer at each scroll."""


def forward(
    slabs: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor] | None,
    table: SlabTable,
    geometry: Geometry,
    configuration: Configuration,
    moments: bool = False,
) -> tuple[list[Tensor], Tensor | None]:
    """Convolve every slab by its row of the table.

    Args:
        slabs: the input tensors that rows call sources: packed channels-last [N, C, H, W], of one dtype and image size.
        weights: the tensors that rows call theirs, each seen from its first element on; of the slabs' dtype.
        biases: a vector for each of the weights, or None.
        table: one row a slab.
        geometry: kernel, stride, padding, dilation.
        configuration: tile, warps and stages.
        moments: also give those of the results, for the batch norm that follows.

    Returns:
        A packed channels-last result [N, outputs, H', W'] a row; float32 [3, pixel tiles, sum of outputs], the count,
        mean and sum of squared deviations of each result channel in each tile of pixels, or None.
    """
    batch, _, *image = slabs[0].shape
    sides = geometry.result((image[0], image[1]))
    results = [empty_slab(slabs[0], batch, row.outputs, sides) for row in table]
    channels = tuple(slab.shape[1] for slab in slabs)
    plan = _forward_plan(table, geometry, batch, (image[0], image[1]), channels, configuration, slabs[0].device)
    noted = None
    if moments:
        tiles = -(-batch * sides[0] * sides[1] // configuration.pixels)
        noted = slabs[0].new_empty(3, tiles, sum(row.outputs for row in table), dtype=torch.float32)
    plan.launch(slabs, weights, biases, results, noted)
    return results, noted


def input_gradient(
    grads: Sequence[Tensor],
    weights: Sequence[Tensor],
    table: SlabTable,
    geometry: Geometry,
    image: Pair,
    configuration: Configuration,
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

    Returns:
        A packed channels-last gradient [N, inputs, H, W] a row, or None.
    """
    batch = grads[0].shape[0]
    if not any(row.gradient for row in table):
        return [None] * len(table)
    results = [empty_slab(grads[0], batch if row.gradient else 0, row.inputs, image) for row in table]
    plan = _backward_plan(table, geometry, batch, image, configuration, grads[0].device)
    plan.launch(grads, weights, None, results, None)
    return [result if row.gradient else None for row, result in zip(table, results, strict=True)]


@dataclass(frozen=True, eq=False)
class Plan:
    """A launch of `gather`, but for the tensors it is given: its numbers on the device, and its constants."""

    numbers: tuple[Tensor, Tensor, Tensor]
    programs: int
    constants: dict[str, Any]

    def launch(
        self,
        sources: Sequence[Tensor],
        weights: Sequence[Tensor],
        biases: Sequence[Tensor] | None,
        results: Sequence[Tensor],
        moments: Tensor | None,
    ) -> None:
        """Write the results, and the moments if there is room for them."""
        gather[(self.programs,)](
            tuple(sources),
            tuple(weights),
            None if biases is None else tuple(biases),
            tuple(results),
            moments,
            *self.numbers,
            sources[0].shape[0],
            *sources[0].shape[2:],
            *results[0].shape[2:],
            *((0, 0) if moments is None else moments.shape[1:]),
            PRECISION=precision(sources[0].dtype),
            UPCAST=INTERPRETED,
            **self.constants,
        )


@lru_cache(PLANS)
def _forward_plan(
    table: SlabTable,
    geometry: Geometry,
    batch: int,
    image: Pair,
    channels: tuple[int, ...],
    configuration: Configuration,
    device: torch.device,
) -> Plan:
    rows = forward_rows(table, geometry, image, channels)
    height, width = (forward_walk(geometry, axis) for axis in (0, 1))
    constants = {"DEPTH_IS_NEAR": True, "NEAR_STRIDE": column_stride(table), **_named(height, width)}
    return _plan(rows, batch, configuration, device, constants)


@lru_cache(PLANS)
def _backward_plan(
    table: SlabTable, geometry: Geometry, batch: int, image: Pair, configuration: Configuration, device: torch.device
) -> Plan:
    rows = backward_rows(table, geometry, image)
    height, width = (backward_walk(geometry, axis) for axis in (0, 1))
    constants = {"DEPTH_IS_NEAR": False, "NEAR_STRIDE": column_stride(table), **_named(height, width)}
    return _plan(rows, batch, configuration, device, constants)


def _named(height: Walk, width: Walk) -> dict[str, int]:
    """The walks as constants of the kernel."""
    return {
        f"{name.upper()}_{axis}": number
        for axis, walk in (("H", height), ("W", width))
        for name, number in walk._asdict().items()
    }


def _plan(
    rows: Sequence[GatherRow],
    batch: int,
    configuration: Configuration,
    device: torch.device,
    constants: dict[str, Any],
) -> Plan:
    grids = [_tiles(row, batch, configuration) for row in rows]
    total = sum(grid.pixel_tiles * grid.channel_tiles for grid in grids)
    resident = programs(device, configuration.warps, configuration.registers, configuration.shared)
    shares = plan_tiles(grids, min(resident, total))
    tile = {
        "PIXELS": configuration.pixels,
        "CHANNELS": configuration.channels,
        "BLOCK_DEPTH": configuration.depth,
        "EVEN_DEPTH": all(row.depth % configuration.depth == 0 for row in rows),
        "ALIGNMENT": alignment(rows),
        "num_warps": configuration.warps,
        "num_stages": configuration.stages,
    }
    numbers = tuple(on_device(array, device) for array in (rows, shares.tiles, shares.starts))
    return Plan(numbers, len(shares.starts) - 1, constants | tile)


def _tiles(row: GatherRow, batch: int, configuration: Configuration) -> TileGrid:
    """The tiles of a row; each costs its products, and about one more for what it stores."""
    pixels = batch * row.grid_height * row.grid_width
    products = row.tap_rows * row.tap_columns * -(-row.depth // configuration.depth)
    return TileGrid(-(-pixels // configuration.pixels), -(-row.result_channels // configuration.channels), products + 1)
