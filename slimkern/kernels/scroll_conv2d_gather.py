"""The kernel behind `scroll_conv2d` and its input gradient: every result pixel gathers source pixels, for all slabs.

Both passes are one implicit matrix product,

    result[pixel, o] = sum over taps t and channels c of source[pixel * SCALE + shift + t * STEP, c] * weight[t, o, c],

and differ in their rows only. The forward pass reads the weight's output axis as o and its input axis as c, the input
gradient the other way round. The input gradient of a strided convolution has one row for each remainder of the result
pixel by the stride, as each meets other taps.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from slimkern.kernels.device_functions import pick, rotated


class GatherRow(NamedTuple):
    """One row of a launch, as numbers; a table of them is int32 [rows, len(GatherRow._fields)].

    Attributes:
        source: which source tensor is read.
        source_channels: channels of its pixels, and so the distance of two of them.
        first_channel: channel of the source at which the row's own begin.
        depth: channels that are summed over.
        result: which result tensor is written.
        result_channels: its channels.
        weight: which weight tensor is read.
        weight_start: element of it at which the weight begins.
        far_stride: stride of the channel axis that isn't read side by side.
        height_stride: stride of the weight's taps along the height.
        width_stride: along the width.
        depth_offset: stored channel that position 0 of the summed axis is.
        depth_stored: stored channels of that axis.
        result_offset: stored channel that position 0 of the result is.
        result_stored: stored channels of that axis.
        bias_offset: as `result_offset`, in the bias.
        bias_stored: channels of the bias.
        norm_offset: where the slab's channels begin among the moments.
        grid_height: rows of result pixels; grid pixel (i, j) is pixel (i * SPREAD_H + top, j * SPREAD_W + left).
        grid_width: columns of them.
        top: first row.
        left: first column.
        tap_row: first row of taps.
        tap_rows: rows of taps.
        tap_column: first column of taps.
        tap_columns: columns of taps.
        shift_h: source row that grid row 0 meets with its first tap.
        shift_w: source column, likewise.
    """

    source: int
    source_channels: int
    first_channel: int
    depth: int
    result: int
    result_channels: int
    weight: int
    weight_start: int
    far_stride: int
    height_stride: int
    width_stride: int
    depth_offset: int
    depth_stored: int
    result_offset: int
    result_stored: int
    bias_offset: int
    bias_stored: int
    norm_offset: int
    grid_height: int
    grid_width: int
    top: int
    left: int
    tap_row: int
    tap_rows: int
    tap_column: int
    tap_columns: int
    shift_h: int
    shift_w: int


FIELDS = tl.constexpr(len(GatherRow._fields))
(
    SOURCE, SOURCE_CHANNELS, FIRST_CHANNEL, DEPTH, RESULT, RESULT_CHANNELS, WEIGHT, WEIGHT_START, FAR_STRIDE,
    HEIGHT_STRIDE, WIDTH_STRIDE, DEPTH_OFFSET, DEPTH_STORED, RESULT_OFFSET, RESULT_STORED, BIAS_OFFSET, BIAS_STORED,
    NORM_OFFSET, GRID_HEIGHT, GRID_WIDTH, TOP, LEFT, TAP_ROW, TAP_ROWS, TAP_COLUMN, TAP_COLUMNS, SHIFT_H, SHIFT_W,
) = (tl.constexpr(place) for place in range(len(GatherRow._fields)))  # fmt: skip


@triton.jit
def aligned(row, column, ALIGNMENT: tl.constexpr):
    """An entry that is known to be a multiple of ALIGNMENT, so that vectors are loaded as such."""
    return tl.multiple_of(tl.load(row + column), ALIGNMENT)


@triton.jit
def gather(
    sources,
    weights,
    biases,
    results,
    moments,
    table,
    tiles,
    starts,
    batch,
    source_height,
    source_width,
    result_height,
    result_width,
    moment_tiles,
    moment_channels,
    SCALE_H: tl.constexpr,
    SCALE_W: tl.constexpr,
    STEP_H: tl.constexpr,
    STEP_W: tl.constexpr,
    SPREAD_H: tl.constexpr,
    SPREAD_W: tl.constexpr,
    TAP_STEP_H: tl.constexpr,
    TAP_STEP_W: tl.constexpr,
    NEAR_STRIDE: tl.constexpr,
    DEPTH_IS_NEAR: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    EVEN_DEPTH: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Compute the tiles starts[p] to starts[p + 1] - 1 of [row, pixel tile, channel tile] in program p.

    Args:
        sources: tuple of packed channels-last tensors [batch, channels, source_height, source_width].
        weights: tuple of tensors.
        biases: tuple of vectors, as many; or None.
        results: tuple of packed channels-last tensors [batch, channels, result_height, result_width].
        moments: float32 [3, moment_tiles, moment_channels] or None: count, mean and sum of squared deviations of each
            pixel tile's results, rounded as they are stored.
        table: int32, a `GatherRow` each.
        tiles: int32 [T, 3].
        starts: int32 [programs + 1].
        batch: images.
        source_height: of the sources; likewise their width and the results' sides.
        moment_tiles: pixel tiles of a slab.
        moment_channels: channels of all slabs.
        SCALE_H: source rows from one grid row to the next, SCALE_W columns.
        STEP_H: source rows from one tap to the next, STEP_W columns.
        SPREAD_H: result rows from one grid row to the next, SPREAD_W columns.
        TAP_STEP_H: taps from one that is used to the next, TAP_STEP_W along the width.
        NEAR_STRIDE: stride of the weight's input axis.
        DEPTH_IS_NEAR: the input axis is the one summed over.
        ALIGNMENT: what all channel counts, starts and offsets are multiples of.
        EVEN_DEPTH: BLOCK_DEPTH divides the depth of every row.
        PIXELS: of a tile.
        CHANNELS: result channels of a tile.
        BLOCK_DEPTH: channels summed at a time.
        PRECISION: of products of float32: ieee or tf32.
        UPCAST: multiply in float32, for the interpreter.
    """
    program = tl.program_id(0)
    for tile in range(tl.load(starts + program), tl.load(starts + program + 1)):
        row = table + tl.load(tiles + tile * 3) * FIELDS
        pixel_tile = tl.load(tiles + tile * 3 + 1)
        channel_tile = tl.load(tiles + tile * 3 + 2)
        source_channels = aligned(row, SOURCE_CHANNELS, ALIGNMENT)
        depth = aligned(row, DEPTH, ALIGNMENT)
        depth_offset = aligned(row, DEPTH_OFFSET, ALIGNMENT)
        depth_stored = aligned(row, DEPTH_STORED, ALIGNMENT)
        result_channels = aligned(row, RESULT_CHANNELS, ALIGNMENT)
        far_stride = aligned(row, FAR_STRIDE, ALIGNMENT)
        source = pick(sources, tl.load(row + SOURCE)) + aligned(row, FIRST_CHANNEL, ALIGNMENT)
        weight = pick(weights, tl.load(row + WEIGHT)) + aligned(row, WEIGHT_START, ALIGNMENT)
        height_stride = tl.load(row + HEIGHT_STRIDE)
        width_stride = tl.load(row + WIDTH_STRIDE)
        if NEAR_STRIDE == 1:
            height_stride = tl.multiple_of(height_stride, ALIGNMENT)
            width_stride = tl.multiple_of(width_stride, ALIGNMENT)

        grid_width = tl.load(row + GRID_WIDTH)
        grid_height = tl.load(row + GRID_HEIGHT)
        pixel = pixel_tile * PIXELS + tl.arange(0, PIXELS)
        grid_row = pixel // grid_width % grid_height
        grid_column = pixel % grid_width
        image = pixel // (grid_width * grid_height)
        is_pixel = image < batch
        top = grid_row * SCALE_H + tl.load(row + SHIFT_H)
        left = grid_column * SCALE_W + tl.load(row + SHIFT_W)
        corner = ((image * source_height + top) * source_width + left) * source_channels

        position = channel_tile * CHANNELS + tl.arange(0, CHANNELS)
        is_result = position < result_channels
        result_channel = rotated(
            position, aligned(row, RESULT_OFFSET, ALIGNMENT), aligned(row, RESULT_STORED, ALIGNMENT)
        )
        result_channel = tl.where(is_result, result_channel, 0)
        result_channel = tl.max_contiguous(tl.multiple_of(result_channel, ALIGNMENT), ALIGNMENT)
        weight_columns = result_channel * (far_stride if DEPTH_IS_NEAR else NEAR_STRIDE)

        first_tap_row = tl.load(row + TAP_ROW)
        first_tap_column = tl.load(row + TAP_COLUMN)
        tap_columns = tl.load(row + TAP_COLUMNS)
        total = tl.zeros((PIXELS, CHANNELS), tl.float32)
        tap_row = 0
        tap_column = 0
        first = 0
        for _ in range(tl.load(row + TAP_ROWS) * tap_columns * tl.cdiv(depth, BLOCK_DEPTH)):
            c = tl.multiple_of(first, ALIGNMENT) + tl.arange(0, BLOCK_DEPTH)
            y = top + tap_row * STEP_H
            x = left + tap_column * STEP_W
            inside = is_pixel & (y >= 0) & (y < source_height) & (x >= 0) & (x < source_width)
            # What is masked is clamped as well: some compilers form the address even so.
            pixels = tl.where(
                inside, corner + (tap_row * STEP_H * source_width + tap_column * STEP_W) * source_channels, 0
            )
            channels = rotated(c, depth_offset, depth_stored)
            if EVEN_DEPTH:
                read = inside[:, None]
                weigh = is_result[None, :]
            else:
                is_depth = c < depth
                c = tl.where(is_depth, c, 0)
                channels = tl.where(is_depth, channels, 0)
                read = inside[:, None] & is_depth[None, :]
                weigh = is_depth[:, None] & is_result[None, :]
            c = tl.max_contiguous(tl.multiple_of(c, ALIGNMENT), ALIGNMENT)
            channels = tl.max_contiguous(tl.multiple_of(channels, ALIGNMENT), ALIGNMENT)
            weight_rows = channels * (NEAR_STRIDE if DEPTH_IS_NEAR else far_stride)
            tap = (first_tap_row + tap_row * TAP_STEP_H) * height_stride + (
                first_tap_column + tap_column * TAP_STEP_W
            ) * width_stride
            elements = pixels[:, None] + c[None, :]
            elements = tl.max_contiguous(tl.multiple_of(elements, [1, ALIGNMENT]), [1, ALIGNMENT])
            a = tl.load(source + elements, mask=tl.max_constancy(read, [1, ALIGNMENT]), other=0.0)
            b = tl.load(weight + tap + weight_rows[:, None] + weight_columns[None, :], mask=weigh, other=0.0)
            if UPCAST:
                a = a.to(tl.float32)
                b = b.to(tl.float32)
            total = tl.dot(a, b, total, input_precision=PRECISION)
            first += BLOCK_DEPTH
            is_next = first >= depth
            first = tl.where(is_next, 0, first)
            tap_column = tl.where(is_next, tap_column + 1, tap_column)
            is_next = tap_column == tap_columns
            tap_column = tl.where(is_next, 0, tap_column)
            tap_row = tl.where(is_next, tap_row + 1, tap_row)

        if biases is not None:
            bias = pick(biases, tl.load(row + WEIGHT))
            channel = rotated(position, tl.load(row + BIAS_OFFSET), tl.load(row + BIAS_STORED))
            total += tl.load(bias + tl.where(is_result, channel, 0), mask=is_result, other=0.0).to(tl.float32)[None, :]
        result = pick(results, tl.load(row + RESULT))
        rounded = total.to(result.dtype.element_ty)
        target_row = grid_row * SPREAD_H + tl.load(row + TOP)
        target_column = grid_column * SPREAD_W + tl.load(row + LEFT)
        target = ((image * result_height + target_row) * result_width + target_column) * result_channels
        target = tl.where(is_pixel, target, 0)
        stored = tl.max_contiguous(tl.multiple_of(tl.where(is_result, position, 0), ALIGNMENT), ALIGNMENT)
        written = tl.max_constancy(is_pixel[:, None] & is_result[None, :], [1, ALIGNMENT])
        elements = target[:, None] + stored[None, :]
        elements = tl.max_contiguous(tl.multiple_of(elements, [1, ALIGNMENT]), [1, ALIGNMENT])
        tl.store(result + elements, rounded, mask=written)

        if moments is not None:
            count = tl.minimum(batch * grid_height * grid_width - pixel_tile * PIXELS, PIXELS).to(tl.float32)
            value = rounded.to(tl.float32)
            mean = tl.sum(tl.where(written, value, 0.0), axis=0) / count
            deviation = tl.where(written, value - mean[None, :], 0.0)
            squares = tl.sum(deviation * deviation, axis=0)
            place = moments + pixel_tile * moment_channels + tl.load(row + NORM_OFFSET) + stored
            plane = moment_tiles * moment_channels
            tl.store(place, tl.zeros_like(mean) + count, mask=is_result)
            tl.store(place + plane, mean, mask=is_result)
            tl.store(place + 2 * plane, squares, mask=is_result)
