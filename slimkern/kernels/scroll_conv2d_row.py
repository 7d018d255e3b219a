"""What the kernels behind `scroll_conv2d` and its input gradient share: a launch's rows, and how a tile is stored."""

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
def finish(
    total,
    row,
    pixel_tile,
    channel_tile,
    biases,
    results,
    moments,
    batch,
    result_height,
    result_width,
    moment_tiles,
    moment_channels,
    SPREAD_H: tl.constexpr,
    SPREAD_W: tl.constexpr,
    ALIGNMENT: tl.constexpr,
):
    """Store a tile [pixels, channels] of sums, with its bias and its moments; see `gather` for the arguments."""
    PIXELS: tl.constexpr = total.shape[0]
    CHANNELS: tl.constexpr = total.shape[1]
    result_channels = aligned(row, RESULT_CHANNELS, ALIGNMENT)
    grid_width = tl.load(row + GRID_WIDTH)
    grid_height = tl.load(row + GRID_HEIGHT)
    pixel = pixel_tile * PIXELS + tl.arange(0, PIXELS)
    image = pixel // (grid_width * grid_height)
    is_pixel = image < batch
    position = channel_tile * CHANNELS + tl.arange(0, CHANNELS)
    is_result = position < result_channels
    if biases is not None:
        bias = pick(biases, tl.load(row + WEIGHT))
        channel = rotated(position, tl.load(row + BIAS_OFFSET), tl.load(row + BIAS_STORED))
        total += tl.load(bias + tl.where(is_result, channel, 0), mask=is_result, other=0.0).to(tl.float32)[None, :]
    result = pick(results, tl.load(row + RESULT))
    rounded = total.to(result.dtype.element_ty)
    target_row = pixel // grid_width % grid_height * SPREAD_H + tl.load(row + TOP)
    target_column = pixel % grid_width * SPREAD_W + tl.load(row + LEFT)
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
