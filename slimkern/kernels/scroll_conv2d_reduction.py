"""The kernels behind the weight's gradient: one reduction over every slab that holds a place of the weight.

Two stages, both deterministic: items sum stretches of pixels to float32 partial sums; then a tile's partial sums are
added in order and written straight to their rotated places in the stored gradient, zeros where no slab reads.

A tile's columns are (tap, input channel) pairs, channels innermost. They are the rows of a matrix product
columns x outputs whose inner axis are pixels; both operands lie in memory as [pixels, channels].
"""

from __future__ import annotations

import triton
import triton.language as tl

from slimkern.kernels.device_functions import pick, rotated
from slimkern.kernels.reduction_plan import Item, Place, Reader, Segment, Tile

READER, ITEM, SEGMENT, TILE, PLACE = (tl.constexpr(len(row._fields)) for row in (Reader, Item, Segment, Tile, Place))
SOURCE, SOURCE_CHANNELS, FIRST_CHANNEL, INPUTS_READ, OUTPUTS_GIVEN = (tl.constexpr(i) for i in range(5))
ITEM_NUMBER, ITEM_OUTPUT, ITEM_TAP, ITEM_INPUT, ITEM_FIRST, ITEM_END = (tl.constexpr(i) for i in range(6))
SEGMENT_SLAB, SEGMENT_FIRST, SEGMENT_END = (tl.constexpr(i) for i in range(3))
TILE_PLACE, TILE_OUTPUT, TILE_TAP, TILE_INPUT, TILE_FIRST, TILE_END = (tl.constexpr(i) for i in range(6))
(
    TENSOR, START, ROWS, COLUMNS, ROW_STRIDE, COLUMN_STRIDE, HEIGHT_STRIDE, WIDTH_STRIDE, OUT_OFFSET, IN_OFFSET,
    BIAS_CHANNELS, BIAS_OFFSET,
) = (tl.constexpr(i) for i in range(12))  # fmt: skip


@triton.jit
def _store_sum(partial_sums, number, total, of_bias, BIAS: tl.constexpr):
    """A partial sum lies as [outputs, columns], then the bias's [outputs]."""
    columns: tl.constexpr = total.shape[0]
    outputs: tl.constexpr = total.shape[1]
    start = partial_sums + number.to(tl.int64) * ((columns + BIAS) * outputs)
    output = tl.arange(0, outputs)
    tl.store(start + output[None, :] * columns + tl.arange(0, columns)[:, None], total)
    if BIAS:
        tl.store(start + columns * outputs + output, of_bias)


@triton.jit
def sum_pixels(
    slabs,
    grads,
    readers,
    items,
    segments,
    partial_sums,
    pixels,
    IMAGE: tl.constexpr,
    RESULT: tl.constexpr,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    DILATION: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    TAPS: tl.constexpr,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    PIXELS: tl.constexpr,
    BIAS: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """One item's partial sum, by pointers: any image and any kernel.

    Args:
        slabs: tuple of packed channels-last tensors [images, channels, *IMAGE].
        grads: tuple of packed channels-last tensors [images, outputs, *RESULT], one a reader.
        readers: int32, a `Reader` each; `items` and `segments` likewise.
        items: one a program.
        segments: that items sum.
        partial_sums: float32 [items, (TAPS * INPUTS + BIAS) * OUTPUTS].
        pixels: of all images' results.
        IMAGE: height and width, as the tuples that follow.
        ALIGNMENT: what all counts and starts of input channels are multiples of; those of outputs are of 8.
        TAPS: of a tile; likewise INPUTS and OUTPUTS.
        PIXELS: of a chunk.
        BIAS: also sum the bias's gradient.
        PRECISION: of products of float32: ieee or tf32.
        UPCAST: multiply in float32, for the interpreter.
    """
    item = items + tl.program_id(0) * ITEM
    output = tl.load(item + ITEM_OUTPUT) + tl.arange(0, OUTPUTS)
    column = tl.arange(0, TAPS * INPUTS)
    tap = tl.load(item + ITEM_TAP) + column // INPUTS
    channel = tl.load(item + ITEM_INPUT) + column % INPUTS
    down = tap // KERNEL[1] * DILATION[0] - PADDING[0]
    right = tap % KERNEL[1] * DILATION[1] - PADDING[1]

    total = tl.zeros((TAPS * INPUTS, OUTPUTS), tl.float32)
    of_bias = tl.zeros((OUTPUTS,), tl.float32)
    for number in range(tl.load(item + ITEM_FIRST), tl.load(item + ITEM_END)):
        segment = segments + number * SEGMENT
        slab = tl.load(segment + SEGMENT_SLAB)
        reader = readers + slab * READER
        source_channels = tl.multiple_of(tl.load(reader + SOURCE_CHANNELS), ALIGNMENT)
        inputs = tl.multiple_of(tl.load(reader + INPUTS_READ), ALIGNMENT)
        outputs = tl.multiple_of(tl.load(reader + OUTPUTS_GIVEN), 8)
        source = pick(slabs, tl.load(reader + SOURCE)) + tl.multiple_of(tl.load(reader + FIRST_CHANNEL), ALIGNMENT)
        grad = pick(grads, slab)
        is_input = (channel < inputs) & (tap < KERNEL[0] * KERNEL[1])
        is_output = output < outputs
        for chunk in range(tl.load(segment + SEGMENT_FIRST), tl.load(segment + SEGMENT_END)):
            pixel = chunk * PIXELS + tl.arange(0, PIXELS)
            is_pixel = pixel < pixels
            pixel = tl.where(is_pixel, pixel, 0)
            image = pixel // (RESULT[0] * RESULT[1])
            y = (pixel // RESULT[1] % RESULT[0] * STRIDE[0])[:, None] + down[None, :]
            x = (pixel % RESULT[1] * STRIDE[1])[:, None] + right[None, :]
            is_seen = (y >= 0) & (y < IMAGE[0]) & (x >= 0) & (x < IMAGE[1]) & is_pixel[:, None] & is_input[None, :]
            # What is masked is clamped as well: some compilers form the address even so. The compiler can't see
            # through the clamps and masks that whole vectors remain; it is told.
            y = tl.minimum(tl.maximum(y, 0), IMAGE[0] - 1)
            x = tl.minimum(tl.maximum(x, 0), IMAGE[1] - 1)
            seen = ((image[:, None] * IMAGE[0] + y) * IMAGE[1] + x) * source_channels + (channel % inputs)[None, :]
            seen = tl.max_contiguous(tl.multiple_of(seen, [1, ALIGNMENT]), [1, ALIGNMENT])
            given = pixel[:, None] * outputs + (output % outputs)[None, :]
            given = tl.max_contiguous(tl.multiple_of(given, [1, 8]), [1, 8])
            is_seen = tl.max_constancy(is_seen, [1, ALIGNMENT])
            is_given = tl.max_constancy(is_pixel[:, None] & is_output[None, :], [1, 8])
            a = tl.load(source + seen, mask=is_seen, other=0.0)
            b = tl.load(grad + given, mask=is_given, other=0.0)
            if UPCAST:
                a = a.to(tl.float32)
                b = b.to(tl.float32)
            total = tl.dot(tl.trans(a), b, total, input_precision=PRECISION)
            if BIAS:
                of_bias += tl.sum(b.to(tl.float32), axis=0)
    _store_sum(partial_sums, tl.load(item + ITEM_NUMBER), total, of_bias, BIAS)


@triton.jit
def sum_boxes(
    slabs,
    grads,
    readers,
    items,
    segments,
    partial_sums,
    pixels,
    IMAGE: tl.constexpr,
    RESULT: tl.constexpr,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    DILATION: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    TAPS: tl.constexpr,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    PIXELS: tl.constexpr,
    BIAS: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """As `sum_pixels`, by the tensor memory accelerator, for tiles of a single tap and an ALIGNMENT of 8.

    A chunk is whole rows of one result, or whole results. What a tap sees of it is a box of every STRIDE-th pixel, from
    the tap's own remainder on; pixels outside the image read as zero, as do channels that the slab doesn't have.
    """
    tl.static_assert(TAPS == 1 and ALIGNMENT == 8)
    HEIGHT: tl.constexpr = min(PIXELS // RESULT[1], RESULT[0])
    IMAGES: tl.constexpr = PIXELS // (RESULT[1] * HEIGHT)
    item = items + tl.program_id(0) * ITEM
    output = tl.load(item + ITEM_OUTPUT)
    tap = tl.load(item + ITEM_TAP)
    channel = tl.load(item + ITEM_INPUT)
    # Moved by PADDING * STRIDE, nothing that is divided is negative.
    down = tap // KERNEL[1] * DILATION[0] + PADDING[0] * (STRIDE[0] - 1)
    right = tap % KERNEL[1] * DILATION[1] + PADDING[1] * (STRIDE[1] - 1)
    top, left = down % STRIDE[0], right % STRIDE[1]
    down = down // STRIDE[0] - PADDING[0]
    right = right // STRIDE[1] - PADDING[1]

    total = tl.zeros((INPUTS, OUTPUTS), tl.float32)
    of_bias = tl.zeros((OUTPUTS,), tl.float32)
    for number in range(tl.load(item + ITEM_FIRST), tl.load(item + ITEM_END)):
        segment = segments + number * SEGMENT
        slab = tl.load(segment + SEGMENT_SLAB)
        reader = readers + slab * READER
        source_channels = tl.multiple_of(tl.load(reader + SOURCE_CHANNELS), 8)
        outputs = tl.multiple_of(tl.load(reader + OUTPUTS_GIVEN), 8)
        source = pick(slabs, tl.load(reader + SOURCE)) + tl.multiple_of(tl.load(reader + FIRST_CHANNEL), 8)
        seen = tl.make_tensor_descriptor(
            source + (top * IMAGE[1] + left) * source_channels,
            [
                pixels // (RESULT[0] * RESULT[1]),
                tl.cdiv(IMAGE[0] - top, STRIDE[0]),
                tl.cdiv(IMAGE[1] - left, STRIDE[1]),
                tl.load(reader + INPUTS_READ),
            ],
            [
                IMAGE[0] * IMAGE[1] * source_channels,
                STRIDE[0] * IMAGE[1] * source_channels,
                STRIDE[1] * source_channels,
                1,
            ],
            [IMAGES, HEIGHT, RESULT[1], INPUTS],
        )
        given = tl.make_tensor_descriptor(pick(grads, slab), [pixels, outputs], [outputs, 1], [PIXELS, OUTPUTS])
        for chunk in range(tl.load(segment + SEGMENT_FIRST), tl.load(segment + SEGMENT_END)):
            pixel = chunk * PIXELS
            y = pixel // RESULT[1] % RESULT[0]
            a = seen.load([pixel // (RESULT[0] * RESULT[1]), y + down, right, channel]).reshape(PIXELS, INPUTS)
            b = given.load([pixel, output])
            if UPCAST:
                a = a.to(tl.float32)
                b = b.to(tl.float32)
            total = tl.dot(tl.trans(a), b, total, input_precision=PRECISION)
            if BIAS:
                of_bias += tl.sum(b.to(tl.float32), axis=0)
    _store_sum(partial_sums, tl.load(item + ITEM_NUMBER), total, of_bias, BIAS)


@triton.jit
def add_partial_sums(
    partial_sums,
    tiles,
    places,
    of_weights,
    of_biases,
    KERNEL: tl.constexpr,
    TAPS: tl.constexpr,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    BIAS: tl.constexpr,
    ELEMENTS: tl.constexpr,
    AT_ONCE: tl.constexpr,
):
    """Add a tile's partial sums in a fixed order, and store them where the weight and the bias have them.

    Args:
        partial_sums: of `sum_pixels` or `sum_boxes`.
        tiles: int32, a `Tile` each, along axis 0 of the grid.
        places: int32, a `Place` each.
        of_weights: tuple of gradients.
        of_biases: tuple of gradients, as many; or None, without BIAS.
        KERNEL: height and width.
        TAPS: of a tile; likewise INPUTS and OUTPUTS.
        BIAS: whether the partial sums hold the bias's.
        ELEMENTS: of a partial sum that a program adds, along axis 1 of the grid.
        AT_ONCE: partial sums that are loaded together.
    """
    COLUMNS_OF_TILE: tl.constexpr = TAPS * INPUTS
    OF_WEIGHT: tl.constexpr = COLUMNS_OF_TILE * OUTPUTS
    SIZE: tl.constexpr = OF_WEIGHT + BIAS * OUTPUTS
    tile = tiles + tl.program_id(0) * TILE
    end = tl.load(tile + TILE_END)
    element = tl.program_id(1) * ELEMENTS + tl.arange(0, ELEMENTS)
    total = tl.zeros((ELEMENTS,), tl.float32)
    for first in range(tl.load(tile + TILE_FIRST), end, AT_ONCE):
        number = first + tl.arange(0, AT_ONCE)
        added = partial_sums + number.to(tl.int64)[:, None] * SIZE + element[None, :]
        total += tl.sum(tl.load(added, mask=(number < end)[:, None] & (element < SIZE)[None, :], other=0.0), axis=0)

    place = places + tl.load(tile + TILE_PLACE) * PLACE
    tensor = tl.load(place + TENSOR)
    rows, columns = tl.load(place + ROWS), tl.load(place + COLUMNS)
    output = tl.load(tile + TILE_OUTPUT) + element // COLUMNS_OF_TILE
    column = element % COLUMNS_OF_TILE
    tap = tl.load(tile + TILE_TAP) + column // INPUTS
    channel = tl.load(tile + TILE_INPUT) + column % INPUTS
    stored = (
        rotated(output, tl.load(place + OUT_OFFSET), rows).to(tl.int64) * tl.load(place + ROW_STRIDE)
        + rotated(channel, tl.load(place + IN_OFFSET), columns) * tl.load(place + COLUMN_STRIDE)
        + tap // KERNEL[1] * tl.load(place + HEIGHT_STRIDE)
        + tap % KERNEL[1] * tl.load(place + WIDTH_STRIDE)
    )
    is_stored = (element < OF_WEIGHT) & (output < rows) & (channel < columns) & (tap < KERNEL[0] * KERNEL[1])
    of_weight = pick(of_weights, tensor) + tl.load(place + START)
    tl.store(of_weight + stored, total, mask=is_stored)
    if BIAS:
        output = tl.load(tile + TILE_OUTPUT) + element - OF_WEIGHT
        kept = rotated(output, tl.load(place + BIAS_OFFSET), tl.load(place + BIAS_CHANNELS))
        # All tiles of these outputs hold the same sums; the first stores them.
        rows = tl.where(tl.load(tile + TILE_TAP) + tl.load(tile + TILE_INPUT) == 0, rows, 0)
        is_kept = (element >= OF_WEIGHT) & (element < SIZE) & (output < rows)
        tl.store(pick(of_biases, tensor) + kept, total, mask=is_kept)
