"""The rows that describe a launch, one a slab: what it reads, which part of which weight, and what it gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import NamedTuple

from torch import Tensor


class Strides(NamedTuple):
    """Distances in elements between neighbours along the axes of a weight [C_out, C_in, height, width]."""

    row: int
    column: int
    height: int
    width: int


@dataclass(frozen=True)
class WeightPlace:
    """Where a slab's weight lies, and how its two channel axes are rotated.

    Position (i, j) of the slab is channel ((i + out_offset) mod rows, (j + in_offset) mod columns), whose first tap is
    element `start + row * strides.row + column * strides.column` of the weight tensor.

    Attributes:
        rows: output channels of the stored weight.
        columns: its input channels.
        strides: of the stored weight.
        out_offset: channel that output position 0 is, in [0, rows).
        in_offset: channel that input position 0 is, in [0, columns).
        tensor: which of the launch's weight tensors (and of its biases).
        start: element of that tensor at which the weight begins.
    """

    rows: int
    columns: int
    strides: Strides
    out_offset: int = 0
    in_offset: int = 0
    tensor: int = 0
    start: int = 0


@dataclass(frozen=True)
class SlabRow:
    """One slab of a launch.

    Attributes:
        inputs: channels that it reads.
        outputs: channels that it gives.
        weight: its weight; slabs with the same one are nested widths of it, others are private.
        source: which of the launch's input tensors it reads; several slabs may share one.
        first_input: channel of that tensor where its own begin.
        bias_channels: channels of the stored bias, modulo which positions wrap around.
        bias_offset: channel of the bias that output position 0 is.
        norm_offset: where its channels begin in flat vectors of batch-norm statistics.
        gradient: whether gradients flow; a frozen slab (False) costs the backward pass nothing.
    """

    inputs: int
    outputs: int
    weight: WeightPlace
    source: int = 0
    first_input: int = 0
    bias_channels: int = 0
    bias_offset: int = 0
    norm_offset: int = 0
    gradient: bool = True


SlabTable = tuple[SlabRow, ...]


def nested(
    weight: Tensor, inputs: Sequence[int], outputs: Sequence[int], out_offset: int = 0, in_offset: int = 0
) -> SlabTable:
    """Nested widths that read one stored weight [C_out, C_in, height, width] in place, through rotated indices.

    `inputs` has a count for each of the `outputs`, or a single one: that of an input which all of them share.
    """
    place = replace(_place(weight), out_offset=out_offset, in_offset=in_offset)
    return _table(inputs, outputs, [place] * len(outputs), [(place.rows, out_offset)] * len(outputs))


def packed(parts: Sequence[Tensor], inputs: Sequence[int], bias_channels: int = 0, bias_offset: int = 0) -> SlabTable:
    """Slabs that read parts [outputs, inputs, height, width] of one flat buffer, as `pack_weights` gives them.

    The bias stays in place, and is read through rotated indices.
    """
    places = [replace(_place(part), start=part.storage_offset()) for part in parts]
    return _table(inputs, [place.rows for place in places], places, [(bias_channels, bias_offset)] * len(parts))


def private(weights: Sequence[Tensor], inputs: Sequence[int]) -> SlabTable:
    """Slabs with a weight (and a bias) tensor of their own, all of it."""
    places = [replace(_place(weight), tensor=index) for index, weight in enumerate(weights)]
    return _table(inputs, [place.rows for place in places], places, [(place.rows, 0) for place in places])


def frozen(table: SlabTable, slabs: Sequence[int]) -> SlabTable:
    """The same table with these slabs frozen."""
    return tuple(replace(row, gradient=row.gradient and index not in slabs) for index, row in enumerate(table))


def _place(weight: Tensor) -> WeightPlace:
    (rows, columns, _, _), (row, column, height, width) = weight.shape, weight.stride()
    return WeightPlace(rows, columns, Strides(row, column, height, width))


def _table(
    inputs: Sequence[int],
    outputs: Sequence[int],
    places: Sequence[WeightPlace],
    biases: Sequence[tuple[int, int]],
) -> SlabTable:
    starts = accumulate(outputs, initial=0)
    sources = range(len(places)) if len(inputs) > 1 else [0] * len(places)
    return tuple(
        SlabRow(inputs[source], count, place, source, 0, *bias, start)
        for source, count, place, bias, start in zip(sources, outputs, places, biases, starts, strict=False)
    )
