"""The kernel behind `scroll_conv2d` and its input gradient: every result pixel gathers source pixels, for all slabs.

Both passes are one implicit matrix product,

    result[pixel, o] = sum over taps t and channels c of source[pixel * SCALE + shift + t * STEP, c] * weight[t, o, c],

and differ in their rows only. The forward pass reads the weight's output axis as o and its input axis as c, the input
gradient the other way round. The input gradient of a strided convolution has one row for each remainder of the result
pixel by the stride, as each meets other taps.
"""

from __future__ import annotations

import triton
import triton.language as tl

from slimkern.kernels import scroll_conv2d_row as entry
from slimkern.kernels.device_functions import pick, rotated
from slimkern.kernels.scroll_conv2d_row import aligned, finish


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
        row = table + tl.load(tiles + tile * 3) * entry.FIELDS
        pixel_tile = tl.load(tiles + tile * 3 + 1)
        channel_tile = tl.load(tiles + tile * 3 + 2)
        source_channels = aligned(row, entry.SOURCE_CHANNELS, ALIGNMENT)
        depth = aligned(row, entry.DEPTH, ALIGNMENT)
        depth_offset = aligned(row, entry.DEPTH_OFFSET, ALIGNMENT)
        depth_stored = aligned(row, entry.DEPTH_STORED, ALIGNMENT)
        result_channels = aligned(row, entry.RESULT_CHANNELS, ALIGNMENT)
        far_stride = aligned(row, entry.FAR_STRIDE, ALIGNMENT)
        source = pick(sources, tl.load(row + entry.SOURCE)) + aligned(row, entry.FIRST_CHANNEL, ALIGNMENT)
        weight = pick(weights, tl.load(row + entry.WEIGHT)) + aligned(row, entry.WEIGHT_START, ALIGNMENT)
        height_stride = tl.load(row + entry.HEIGHT_STRIDE)
        width_stride = tl.load(row + entry.WIDTH_STRIDE)
        if NEAR_STRIDE == 1:
            height_stride = tl.multiple_of(height_stride, ALIGNMENT)
            width_stride = tl.multiple_of(width_stride, ALIGNMENT)

        grid_width = tl.load(row + entry.GRID_WIDTH)
        grid_height = tl.load(row + entry.GRID_HEIGHT)
        pixel = pixel_tile * PIXELS + tl.arange(0, PIXELS)
        grid_row = pixel // grid_width % grid_height
        grid_column = pixel % grid_width
        image = pixel // (grid_width * grid_height)
        is_pixel = image < batch
        top = grid_row * SCALE_H + tl.load(row + entry.SHIFT_H)
        left = grid_column * SCALE_W + tl.load(row + entry.SHIFT_W)
        corner = ((image * source_height + top) * source_width + left) * source_channels

        position = channel_tile * CHANNELS + tl.arange(0, CHANNELS)
        is_result = position < result_channels
        result_channel = rotated(
            position, aligned(row, entry.RESULT_OFFSET, ALIGNMENT), aligned(row, entry.RESULT_STORED, ALIGNMENT)
        )
        result_channel = tl.where(is_result, result_channel, 0)
        result_channel = tl.max_contiguous(tl.multiple_of(result_channel, ALIGNMENT), ALIGNMENT)
        weight_columns = result_channel * (far_stride if DEPTH_IS_NEAR else NEAR_STRIDE)

        first_tap_row = tl.load(row + entry.TAP_ROW)
        first_tap_column = tl.load(row + entry.TAP_COLUMN)
        tap_columns = tl.load(row + entry.TAP_COLUMNS)
        total = tl.zeros((PIXELS, CHANNELS), tl.float32)
        tap_row = 0
        tap_column = 0
        first = 0
        for _ in range(tl.load(row + entry.TAP_ROWS) * tap_columns * tl.cdiv(depth, BLOCK_DEPTH)):
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

        finish(
            total, row, pixel_tile, channel_tile, biases, results, moments, batch, result_height, result_width,
            moment_tiles, moment_channels, SPREAD_H, SPREAD_W, ALIGNMENT,
        )  # fmt: skip
