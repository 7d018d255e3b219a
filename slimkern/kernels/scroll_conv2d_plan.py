"""What the forward pass and the input gradient are launched by, planned once for each shape and kept on the device."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import gcd
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slimkern.kernels.capturing import keep_for_graphs
from slimkern.kernels.configurations import Configuration
from slimkern.kernels.geometry import Geometry, Pair
from slimkern.kernels.launch import INTERPRETED, check_boxes, on_device, precision, programs, with_scratch
from slimkern.kernels.scroll_conv2d_boxes import gather_boxes
from slimkern.kernels.scroll_conv2d_gather import gather
from slimkern.kernels.scroll_conv2d_row import GatherRow
from slimkern.kernels.scroll_conv2d_rows import (
    Walk,
    alignment,
    backward_rows,
    backward_walk,
    box_of,
    column_stride,
    forward_rows,
    forward_walk,
)
from slimkern.kernels.slab_table import SlabTable
from slimkern.kernels.tile_plan import TileGrid, TilePlan, plan_tiles

PLANS = 4096
"""Plans that are kept; a network needs one for each pass of each layer at each scroll."""


@dataclass(frozen=True, eq=False)
class Plan:
    """A launch, but for the tensors it is given.

    Which program computes which tiles is planned by the first launch of each kind, as it depends on how many programs
    a device holds at once, and that on the code that Triton compiles.

    Attributes:
        kernel: `gather` or `gather_boxes`.
        table: its rows, on the device.
        grids: the tiles of each.
        configuration: of the tiles.
        constants: of the kernel.
        numbers: by kind of launch, on the device, what tells each program its tiles; where those begin comes last.
    """

    kernel: Any
    table: Tensor
    grids: tuple[TileGrid, ...]
    configuration: Configuration
    constants: dict[str, Any]
    numbers: dict[Hashable, tuple[Tensor, ...]] = field(default_factory=dict)

    def launch(
        self,
        sources: Sequence[Tensor],
        weights: Sequence[Tensor],
        biases: Sequence[Tensor] | None,
        results: Sequence[Tensor],
        moments: Tensor | None,
        products: str | None,
    ) -> None:
        """Write the results, and the moments if there is room for them."""
        tensors = (
            tuple(sources),
            tuple(weights),
            None if biases is None else tuple(biases),
            tuple(results),
            moments,
            self.table,
        )
        sizes = (
            sources[0].shape[0],
            *sources[0].shape[2:],
            *results[0].shape[2:],
            *((0, 0) if moments is None else moments.shape[1:]),
        )
        constants = {"PRECISION": products or precision(sources[0].dtype), "UPCAST": INTERPRETED, **self.constants}
        kind = (sources[0].dtype, constants["PRECISION"], biases is None, moments is None)
        if kind not in self.numbers:
            self.numbers[kind] = self._share_out(tensors, sizes, constants)
        numbers = self.numbers[kind]
        keep_for_graphs(self, self.table.device)

        def launch() -> None:
            self.kernel[(len(numbers[-1]) - 1,)](*tensors, *numbers, *sizes, **constants)

        if self.configuration.boxes:
            with_scratch(sources[0].device, launch)
        else:
            launch()

    def _share_out(self, tensors: Sequence[Any], sizes: Sequence[int], constants: dict[str, Any]) -> tuple[Tensor, ...]:
        device = self.table.device
        stand_ins = [self.table] * (3 if self.configuration.boxes else 2)
        most = programs(device, self.configuration, self.kernel, (*tensors, *stand_ins, *sizes), constants)
        shares = plan_tiles(self.grids, min(most, sum(grid.pixel_tiles * grid.channel_tiles for grid in self.grids)))
        ends = _segments(shares) if self.configuration.boxes else (shares.starts,)
        return tuple(on_device(array, device) for array in (shares.tiles, *ends))


@lru_cache(PLANS)
def forward_plan(
    table: SlabTable,
    geometry: Geometry,
    batch: int,
    image: Pair,
    channels: tuple[int, ...],
    configuration: Configuration,
    device: torch.device,
) -> Plan:
    """Plan `scroll_conv2d.forward`; `channels` are those of the input tensors."""
    rows = forward_rows(table, geometry, image, channels)
    walks = [forward_walk(geometry, axis) for axis in (0, 1)]
    return _plan(rows, walks, True, column_stride(table), batch, image, configuration, device)


@lru_cache(PLANS)
def backward_plan(
    table: SlabTable, geometry: Geometry, batch: int, image: Pair, configuration: Configuration, device: torch.device
) -> Plan:
    """Plan `scroll_conv2d.input_gradient`."""
    rows = backward_rows(table, geometry, image)
    walks = [backward_walk(geometry, axis) for axis in (0, 1)]
    return _plan(rows, walks, False, column_stride(table), batch, geometry.result(image), configuration, device)


def _plan(
    rows: Sequence[GatherRow],
    walks: Sequence[Walk],
    depth_is_near: bool,
    near_stride: int,
    batch: int,
    source: Pair,
    configuration: Configuration,
    device: torch.device,
) -> Plan:
    constants = {
        f"{name.upper()}_{axis}": number
        for axis, walk in zip("HW", walks, strict=True)
        for name, number in walk._asdict().items()
    }
    constants |= {
        "DEPTH_IS_NEAR": depth_is_near,
        "CHANNELS": configuration.channels,
        "BLOCK_DEPTH": configuration.depth,
        "num_warps": configuration.warps,
        "num_stages": configuration.stages,
    }
    if configuration.boxes:
        check_boxes(device)
        constants["BOX"] = box_of(rows, near_stride, configuration, source, (walks[0].scale, walks[1].scale))
        taps = [max(row.tap_rows for row in rows), max(row.tap_columns for row in rows)]
        for axis, walk, most in zip("HW", walks, taps, strict=True):
            period = walk.scale // gcd(walk.scale, walk.step)
            constants |= {f"PERIOD_{axis}": period, f"GROUPS_{axis}": min(period, max(most, 1))}
    else:
        constants |= {
            "NEAR_STRIDE": near_stride,
            "PIXELS": configuration.pixels,
            "EVEN_DEPTH": all(row.depth % configuration.depth == 0 for row in rows),
            "ALIGNMENT": alignment(rows),
        }
    kernel: Any = gather_boxes if configuration.boxes else gather
    grids = tuple(_tiles(row, batch, configuration) for row in rows)
    return Plan(kernel, on_device(rows, device), grids, configuration, constants)


def _tiles(row: GatherRow, batch: int, configuration: Configuration) -> TileGrid:
    """The tiles of a row; each costs its products, and about one more for what it stores."""
    pixels = batch * row.grid_height * row.grid_width
    products = row.tap_rows * row.tap_columns * -(-row.depth // configuration.depth)
    return TileGrid(-(-pixels // configuration.pixels), -(-row.result_channels // configuration.channels), products + 1)


def _segments(shares: TilePlan) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Runs of tiles that have one row and program, as (row, first tile, last tile + 1); where programs' runs start."""
    tiles, starts = shares.tiles[:, 0], shares.starts
    is_first = np.concatenate([[True], tiles[1:] != tiles[:-1]])
    is_first[starts[:-1]] = True
    firsts = np.flatnonzero(is_first)
    ends = np.append(firsts[1:], len(tiles))
    segments = np.stack([tiles[firsts], firsts, ends], axis=1).astype(np.int32)
    return segments, np.searchsorted(firsts, starts).astype(np.int32)
