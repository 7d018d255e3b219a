"""As `scroll_conv2d_gather`, by the tensor memory accelerator of compute capability 9.0 and later.

What one tap sees of a tile of pixels is a box of the source: whole rows of a result, or whole results, whose pixels
outside the image read as zero, as do channels that the slab doesn't have. A weight tile is a box as well, read in place
or packed. Descriptors are made on the device, since which slab a program reads is data.
"""

from __future__ import annotations

import triton
import triton.language as tl

from slimkern.kernels import scroll_conv2d_row as entry
from slimkern.kernels.device_functions import pick, rotated
from slimkern.kernels.scroll_conv2d_row import aligned, finish


@triton.jit
def _every(
    source,
    top,
    left,
    batch,
    height,
    width,
    source_channels,
    depth,
    SCALE_H: tl.constexpr,
    SCALE_W: tl.constexpr,
    BOX: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
):
    """Every SCALE-th pixel of a source from (top, left) on, in boxes of BOX images, rows and columns."""
    return tl.make_tensor_descriptor(
        source + (top * width + left) * source_channels,
        [batch, tl.cdiv(height - top, SCALE_H), tl.cdiv(width - left, SCALE_W), depth],
        [height * width * source_channels, SCALE_H * width * source_channels, SCALE_W * source_channels, 1],
        [BOX[0], BOX[1], BOX[2], BLOCK_DEPTH],
    )


@triton.jit
def _remainder(number, divisor: tl.constexpr):
    """The remainder in [0, divisor), of negative numbers too."""
    return (number % divisor + divisor) % divisor


@triton.jit
def gather_boxes(
    sources,
    weights,
    biases,
    results,
    moments,
    table,
    tiles,
    segments,
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
    DEPTH_IS_NEAR: tl.constexpr,
    PERIOD_H: tl.constexpr,
    PERIOD_W: tl.constexpr,
    GROUPS_H: tl.constexpr,
    GROUPS_W: tl.constexpr,
    BOX: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Compute the segments starts[p] to starts[p + 1] - 1 of tiles in program p; see `gather` for what isn't here.

    All channel counts, starts and offsets are multiples of 8, the weight's input axis lies side by side, and no box of
    a weight wraps around.

    Args:
        segments: int32 [segments, 3]: a row, its first tile, its last one + 1.
        tiles: int32 [T, 3], whose rows are their segments'.
        starts: int32 [programs + 1].
        PERIOD_H: taps after which the source row has the same remainder by SCALE_H; PERIOD_W likewise.
        GROUPS_H: groups of taps with the same remainder, as many as the period or fewer; GROUPS_W likewise.
        BOX: images, rows and columns of a pixel tile.
    """
    PIXELS: tl.constexpr = BOX[0] * BOX[1] * BOX[2]
    # A warp group multiplies 64 rows: channels where there are so many, as then both operands stay in shared memory.
    CHANNELS_FIRST: tl.constexpr = CHANNELS >= 64
    program = tl.program_id(0)
    for number in range(tl.load(starts + program), tl.load(starts + program + 1)):
        segment = segments + number * 3
        row = table + tl.load(segment) * entry.FIELDS
        source_channels = aligned(row, entry.SOURCE_CHANNELS, 8)
        depth = aligned(row, entry.DEPTH, 8)
        depth_offset = aligned(row, entry.DEPTH_OFFSET, 8)
        depth_stored = aligned(row, entry.DEPTH_STORED, 8)
        result_offset = aligned(row, entry.RESULT_OFFSET, 8)
        result_stored = aligned(row, entry.RESULT_STORED, 8)
        far_stride = aligned(row, entry.FAR_STRIDE, 8)
        source = pick(sources, tl.load(row + entry.SOURCE)) + aligned(row, entry.FIRST_CHANNEL, 8)
        weight = pick(weights, tl.load(row + entry.WEIGHT)) + aligned(row, entry.WEIGHT_START, 8)
        first_tap_row = tl.load(row + entry.TAP_ROW)
        first_tap_column = tl.load(row + entry.TAP_COLUMN)
        tap_rows = tl.load(row + entry.TAP_ROWS)
        tap_columns = tl.load(row + entry.TAP_COLUMNS)
        shift_h = tl.load(row + entry.SHIFT_H)
        shift_w = tl.load(row + entry.SHIFT_W)
        height_stride = aligned(row, entry.HEIGHT_STRIDE, 8)
        width_stride = aligned(row, entry.WIDTH_STRIDE, 8)
        # A stored row is read as one stretch of taps and channels: flat, and without reshaping, the operand stays in
        # shared memory. A box that goes beyond the slab's channels meets other weights, but zeros of the source.
        if DEPTH_IS_NEAR:
            weighed = tl.make_tensor_descriptor(
                weight, [result_stored, far_stride], [far_stride, 1], [CHANNELS, BLOCK_DEPTH]
            )
        else:
            weighed = tl.make_tensor_descriptor(
                weight, [depth_stored, far_stride], [far_stride, 1], [BLOCK_DEPTH, CHANNELS]
            )
        if GROUPS_H * GROUPS_W == 1:  # one descriptor serves all tiles of the segment
            seen = _every(
                source, _remainder(shift_h, SCALE_H), _remainder(shift_w, SCALE_W), batch, source_height, source_width,
                source_channels, depth, SCALE_H, SCALE_W, BOX, BLOCK_DEPTH,
            )  # fmt: skip
        grid_width = tl.load(row + entry.GRID_WIDTH)
        grid_height = tl.load(row + entry.GRID_HEIGHT)
        for tile in range(tl.load(segment + 1), tl.load(segment + 2)):
            pixel_tile = tl.load(tiles + tile * 3 + 1)
            channel_tile = tl.load(tiles + tile * 3 + 2)
            pixel = pixel_tile * PIXELS
            image = pixel // (grid_width * grid_height)
            grid_row = pixel // grid_width % grid_height
            result_channel = rotated(channel_tile * CHANNELS, result_offset, result_stored)
            if CHANNELS_FIRST:
                total = tl.zeros((CHANNELS, PIXELS), tl.float32)
            else:
                total = tl.zeros((PIXELS, CHANNELS), tl.float32)
            for group_row in tl.static_range(GROUPS_H):
                for group_column in tl.static_range(GROUPS_W):
                    down = shift_h + group_row * STEP_H
                    right = shift_w + group_column * STEP_W
                    top = _remainder(down, SCALE_H)
                    left = _remainder(right, SCALE_W)
                    if GROUPS_H * GROUPS_W > 1:
                        seen = _every(
                            source, top, left, batch, source_height, source_width, source_channels, depth,
                            SCALE_H, SCALE_W, BOX, BLOCK_DEPTH,
                        )  # fmt: skip
                    down = (down - top) // SCALE_H
                    right = (right - left) // SCALE_W
                    rows = tl.cdiv(tl.maximum(tap_rows - group_row, 0), PERIOD_H)
                    columns = tl.cdiv(tl.maximum(tap_columns - group_column, 0), PERIOD_W)
                    tap_row = 0
                    tap_column = 0
                    c = 0
                    for _ in range(rows * columns * tl.cdiv(depth, BLOCK_DEPTH)):
                        y = grid_row + down + tap_row * (PERIOD_H * STEP_H // SCALE_H)
                        x = right + tap_column * (PERIOD_W * STEP_W // SCALE_W)
                        stored_row = first_tap_row + (group_row + tap_row * PERIOD_H) * TAP_STEP_H
                        stored_column = first_tap_column + (group_column + tap_column * PERIOD_W) * TAP_STEP_W
                        channel = rotated(c, depth_offset, depth_stored)
                        a = seen.load([image, y, x, c]).reshape(PIXELS, BLOCK_DEPTH)
                        tap = stored_row * height_stride + stored_column * width_stride
                        if DEPTH_IS_NEAR:
                            b = weighed.load([result_channel, tap + channel])
                        else:
                            b = weighed.load([channel, tap + result_channel])
                        if UPCAST:
                            a = a.to(tl.float32)
                            b = b.to(tl.float32)
                        if CHANNELS_FIRST:
                            total = tl.dot(b if DEPTH_IS_NEAR else b.T, a.T, total, input_precision=PRECISION)
                        else:
                            total = tl.dot(a, b.T if DEPTH_IS_NEAR else b, total, input_precision=PRECISION)
                        c += BLOCK_DEPTH
                        is_next = c >= depth
                        c = tl.where(is_next, 0, c)
                        tap_column = tl.where(is_next, tap_column + 1, tap_column)
                        is_next = tap_column == columns
                        tap_column = tl.where(is_next, 0, tap_column)
                        tap_row = tl.where(is_next, tap_row + 1, tap_row)
            if CHANNELS_FIRST:
                total = total.T
            finish(
                total, row, pixel_tile, channel_tile, biases, results, moments, batch, result_height, result_width,
                moment_tiles, moment_channels, SPREAD_H, SPREAD_W, 8,
            )  # fmt: skip
