"""How the reduction of a weight's gradient is cut: tiles of the weight, and stretches of pixels that items sum.

A tile is a box of one weight's positions: taps, input channels and output channels. Every slab that holds the tile adds
to it, so the tile's work is the chunks of pixels of all those slabs, one after the other. It is cut into items of
about equal length, so that all processors are busy; each item gives one partial sum.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from slimkern.kernels.configurations import ReductionConfiguration
from slimkern.kernels.slab_table import SlabTable, WeightPlace

SHORTEST_ITEM = 4
"""Chunks below which writing and reading a partial sum costs more than what it sums."""


class Reader(NamedTuple):
    """A slab: the input tensor it reads, that tensor's channels, the first it reads; how many it reads and gives."""

    source: int
    source_channels: int
    first_channel: int
    inputs: int
    outputs: int


class Item(NamedTuple):
    """Which partial sum a program gives, where its tile begins, and the segments that it sums."""

    number: int
    output: int
    tap: int
    input: int
    first: int
    end: int


class Segment(NamedTuple):
    """Chunks of pixels of one slab."""

    slab: int
    first: int
    end: int


class Tile(NamedTuple):
    """Which weight a tile belongs to, where in its positions it begins, and the partial sums that are its own."""

    place: int
    output: int
    tap: int
    input: int
    first: int
    end: int


class Place(NamedTuple):
    """Where a weight's gradient, and that of its bias, lies; as in `WeightPlace`."""

    tensor: int
    start: int
    rows: int
    columns: int
    row_stride: int
    column_stride: int
    height_stride: int
    width_stride: int
    out_offset: int
    in_offset: int
    bias_channels: int
    bias_offset: int


class ReductionPlan(NamedTuple):
    """The tables of a launch, int32: one of the tuples above a row. Items come longest first."""

    readers: NDArray[np.int32]
    items: NDArray[np.int32]
    segments: NDArray[np.int32]
    tiles: NDArray[np.int32]
    places: NDArray[np.int32]


def plan_reduction(
    table: SlabTable,
    source_channels: Sequence[int],
    taps: int,
    configuration: ReductionConfiguration,
    pixels: int,
    items: int,
) -> ReductionPlan:
    """Cut the reductions of all weights of a launch.

    Args:
        table: the slabs. Those with an equal weight are summed; frozen ones add nothing.
        source_channels: of each input tensor.
        taps: of the kernel, height times width.
        configuration: extents of a tile.
        pixels: result pixels of a slab, over all images.
        items: about how many are wanted. There is at least one for every tile that a slab holds.

    Raises:
        ValueError: slabs of one weight name different places of its bias.
    """
    chunks = -(-pixels // configuration.pixels)
    places = list(dict.fromkeys(row.weight for row in table))
    corners = [corner for number, place in enumerate(places) for corner in _corners(number, place, taps, configuration)]
    holders = [_holders(table, places[number], output, column) for number, output, _, column in corners]
    longest = max(SHORTEST_ITEM, -(-chunks * sum(map(len, holders)) // items))

    tiles: list[Tile] = []
    work: list[Item] = []
    lengths: list[int] = []
    segments: list[Segment] = []
    for (place, output, tap, column), slabs in zip(corners, holders, strict=True):
        total = chunks * len(slabs)
        cuts = -(-total // longest)
        tiles.append(Tile(place, output, tap, column, len(work), len(work) + cuts))
        for cut in range(cuts):
            begin, end = total * cut // cuts, total * (cut + 1) // cuts
            stretch = _stretch(slabs, chunks, begin, end)
            work.append(Item(len(work), output, tap, column, len(segments), len(segments) + len(stretch)))
            lengths.append(end - begin)
            segments += stretch
    order = sorted(range(len(work)), key=lambda number: -lengths[number])
    readers = [
        Reader(row.source, source_channels[row.source], row.first_input, row.inputs, row.outputs) for row in table
    ]
    return ReductionPlan(
        _numbers(readers, Reader),
        _numbers([work[number] for number in order], Item),
        _numbers(segments, Segment),
        _numbers(tiles, Tile),
        _numbers([_place(table, place) for place in places], Place),
    )


def _corners(
    number: int, place: WeightPlace, taps: int, tile: ReductionConfiguration
) -> Iterator[tuple[int, int, int, int]]:
    """Where tiles of a weight begin: its number, output, tap and input."""
    outputs, inputs = range(0, place.rows, tile.outputs), range(0, place.columns, tile.inputs)
    return product([number], outputs, range(0, taps, tile.taps), inputs)


def _holders(table: SlabTable, place: WeightPlace, output: int, column: int) -> list[int]:
    return [
        slab
        for slab, row in enumerate(table)
        if row.gradient and row.weight == place and row.outputs > output and row.inputs > column
    ]


def _stretch(slabs: Sequence[int], chunks: int, begin: int, end: int) -> list[Segment]:
    """The chunks [begin, end) of slabs that come one after the other."""
    return [
        Segment(slab, max(begin - before, 0), min(end - before, chunks))
        for slab, before in zip(slabs, range(0, len(slabs) * chunks, chunks), strict=True)
        if begin < before + chunks and end > before
    ]


def _place(table: SlabTable, place: WeightPlace) -> Place:
    biases = {(row.bias_channels, row.bias_offset) for row in table if row.weight == place}
    if len(biases) > 1:
        raise ValueError(f"slabs of one weight must share the place of its bias, not read {sorted(biases)}")
    (bias,) = biases
    return Place(
        place.tensor,
        place.start,
        place.rows,
        place.columns,
        *place.strides,
        place.out_offset,
        place.in_offset,
        *bias,
    )


def _numbers(rows: Sequence[tuple[int, ...]], kind: type[tuple[int, ...]]) -> NDArray[np.int32]:
    return np.array(rows, np.int32).reshape(-1, len(kind.__annotations__))
