"""The rows of a `gather` launch: what the forward pass and the input gradient of each slab read and write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from math import gcd
from typing import NamedTuple

from slimkern.kernels.configurations import Configuration
from slimkern.kernels.geometry import Geometry, Pair
from slimkern.kernels.launch import Unsuitable
from slimkern.kernels.scroll_conv2d_row import GatherRow
from slimkern.kernels.slab_table import SlabRow, SlabTable


class Walk(NamedTuple):
    """How result pixels meet source pixels along one axis; the same for all rows of a launch."""

    scale: int
    step: int
    spread: int
    tap_step: int


class Grid(NamedTuple):
    """The result pixels of a row along one axis, and the taps that they meet."""

    size: int
    start: int
    tap: int
    taps: int
    shift: int


def forward_walk(geometry: Geometry, axis: int) -> Walk:
    """The forward pass meets every tap, `dilation` source pixels from the last one."""
    return Walk(geometry.stride[axis], geometry.dilation[axis], 1, 1)


def backward_walk(geometry: Geometry, axis: int) -> Walk:
    """An input pixel y meets the result pixel (y + padding - tap * dilation) / stride, where that is a whole number."""
    stride, dilation = geometry.stride[axis], geometry.dilation[axis]
    tap_step = stride // gcd(stride, dilation)
    return Walk(1, -(tap_step * dilation) // stride, stride, tap_step)


def backward_grids(geometry: Geometry, image: Pair, axis: int) -> list[Grid]:
    """The input pixels by their remainder modulo the stride: those with the same one meet the same taps."""
    kernel, stride, padding, dilation = (pair[axis] for pair in geometry)
    tap_step = stride // gcd(stride, dilation)
    grids = []
    for start in range(min(stride, image[axis])):
        met = [tap for tap in range(min(tap_step, kernel)) if (start + padding - tap * dilation) % stride == 0]
        tap = met[0] if met else 0
        taps = len(range(tap, kernel, tap_step)) if met else 0
        size = -(-(image[axis] - start) // stride)
        grids.append(Grid(size, start, tap, taps, (start + padding - tap * dilation) // stride))
    return grids


def forward_rows(table: SlabTable, geometry: Geometry, image: Pair, source_channels: Sequence[int]) -> list[GatherRow]:
    """One row a slab. `source_channels` are those of each input tensor."""
    sides = geometry.result(image)
    grids = [Grid(sides[axis], 0, 0, geometry.kernel[axis], -geometry.padding[axis]) for axis in (0, 1)]
    return [
        GatherRow(
            row.source, source_channels[row.source], row.first_input, row.inputs, place, row.outputs,
            row.weight.tensor, row.weight.start, row.weight.strides.row, *_tap_strides(row, geometry),
            row.weight.in_offset, row.weight.columns, row.weight.out_offset, row.weight.rows,
            row.bias_offset, row.bias_channels, row.norm_offset, *_flat(*grids),
        )
        for place, row in enumerate(table)
    ]  # fmt: skip


def backward_rows(table: SlabTable, geometry: Geometry, image: Pair) -> list[GatherRow]:
    """The rows of every slab that isn't frozen: one for each pair of remainders; slab i reads and writes tensor i."""
    remainders = list(product(*(backward_grids(geometry, image, axis) for axis in (0, 1))))
    return [
        GatherRow(
            place, row.outputs, 0, row.outputs, place, row.inputs,
            row.weight.tensor, row.weight.start, row.weight.strides.row, *_tap_strides(row, geometry),
            row.weight.out_offset, row.weight.rows, row.weight.in_offset, row.weight.columns,
            0, 1, 0, *_flat(*grids),
        )
        for place, row in enumerate(table)
        if row.gradient
        for grids in remainders
    ]  # fmt: skip


def alignment(rows: Sequence[GatherRow]) -> int:
    """The power of two, up to 8, that all channel counts, starts and offsets of a launch are multiples of."""
    numbers = (
        number
        for row in rows
        for number in (
            row.source_channels, row.first_channel, row.depth, row.result_channels, row.weight_start, row.far_stride,
            row.depth_offset, row.depth_stored, row.result_offset, row.result_stored,
        )
    )  # fmt: skip
    return gcd(8, *numbers)


def box_of(
    rows: Sequence[GatherRow], near_stride: int, configuration: Configuration, image: Pair, scale: Pair
) -> tuple[int, int, int]:
    """Images, rows and columns of a pixel tile that is read as boxes.

    Args:
        rows: of the launch.
        near_stride: stride of the weights' input axis.
        configuration: pixels, channels and depth of a tile.
        image: height and width of the sources.
        scale: source rows from one grid row to the next, and columns.

    Raises:
        Unsuitable: the shape can't be read so; the message says why.
    """
    grids = sorted({(row.grid_height, row.grid_width) for row in rows})
    height, width = grids[0]
    pixels, depth, channels = configuration.pixels, configuration.depth, configuration.channels
    if near_stride != 1 or alignment(rows) != 8:
        raise Unsuitable("boxes want weights whose input channels lie side by side, and multiples of 8 everywhere")
    if len(grids) > 1 or any(side & (side - 1) for side in (height, width)) or width > pixels:
        raise Unsuitable(f"boxes of {pixels} pixels want one grid whose sides are powers of two, not {grids}")
    check_every_pixel(image, scale)
    for row in rows:
        wrapped = row.depth_offset and any(number % depth for number in (row.depth_offset, row.depth_stored, row.depth))
        if wrapped or (
            row.result_offset and any(number % channels for number in (row.result_offset, row.result_stored))
        ):
            raise Unsuitable(f"boxes of {depth} by {channels} channels would wrap around the weight")
    in_rows = min(pixels // width, height)
    return pixels // (width * in_rows), in_rows, width


def check_every_pixel(image: Pair, scale: Pair) -> None:
    """Refuse images of which a box of every `scale`-th pixel may have none: a descriptor's axis must not be empty.

    Raises:
        Unsuitable: a side of the image is smaller than the scale.
    """
    if min(image[0] - scale[0], image[1] - scale[1]) < 0:
        raise Unsuitable(f"boxes of every {scale[0]}th row and {scale[1]}th column don't fit images of {image}")


def column_stride(table: SlabTable) -> int:
    """The stride of the weights' input axis.

    Raises:
        ValueError: not all weights have the same.
    """
    strides = {row.weight.strides.column for row in table}
    if len(strides) > 1:
        raise ValueError(f"weights with input strides {sorted(strides)} can't share a launch; lay them out alike")
    return strides.pop()


def _tap_strides(row: SlabRow, geometry: Geometry) -> Pair:
    """Strides of the taps; 0 where there is only one, whatever its stride is said to be."""
    strides = (row.weight.strides.height, row.weight.strides.width)
    height, width = (stride if taps > 1 else 0 for stride, taps in zip(strides, geometry.kernel, strict=True))
    return height, width


def _flat(height: Grid, width: Grid) -> Iterator[int]:
    """The last fields of a `GatherRow`."""
    yield from (height.size, width.size, height.start, width.start)
    yield from (height.tap, height.taps, width.tap, width.taps, height.shift, width.shift)
