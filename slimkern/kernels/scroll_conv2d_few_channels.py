"""The kernel behind the forward pass of slabs that share an input of a few channels.

Channels and taps are summed over as one axis, since image channels alone are too few to fill a matrix product.
"""

from __future__ import annotations

import triton
import triton.language as tl

from slimkern.kernels.device_functions import rotated


@triton.jit
def gather_few_channels(
    source,
    weight,
    bias,
    results,
    moments,
    source_strides,
    weight_strides,
    outputs,
    offsets,
    stored,
    batch,
    source_height,
    source_width,
    result_height,
    result_width,
    moment_channels,
    INPUTS: tl.constexpr,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    DILATION: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Compute one tile of pixels by channels for all slabs; the grid is (pixel tiles, channel tiles).

    Args:
        source: [batch, INPUTS, source_height, source_width], at `source_strides`.
        weight: [stored[0], stored[1], *KERNEL] at `weight_strides`.
        bias: [stored[0]] or None.
        results: tuple of packed channels-last tensors [batch, outputs[slab], result_height, result_width].
        moments: float32 [3, pixel tiles, moment_channels] or None, as `gather` writes them.
        source_strides: of images, channels, rows and columns.
        weight_strides: likewise.
        outputs: channels of each result.
        offsets: stored channels that output position 0 and input position 0 are.
        stored: channels of the weight's first two axes.
        batch: images; the sides of source and result follow.
        moment_channels: channels of all slabs.
        INPUTS: channels of the source.
        KERNEL: height and width; likewise STRIDE, PADDING and DILATION.
        ALIGNMENT: what all outputs are multiples of.
        PIXELS: of a tile; likewise CHANNELS.
        BLOCK_DEPTH: pairs of a tap and a channel that are summed at a time.
        PRECISION: of products of float32: ieee or tf32.
        UPCAST: multiply in float32, for the interpreter.
    """
    pixel_tile = tl.program_id(0)
    pixel = pixel_tile * PIXELS + tl.arange(0, PIXELS)
    image = pixel // (result_height * result_width)
    is_pixel = image < batch
    top = pixel // result_width % result_height * STRIDE[0] - PADDING[0]
    left = pixel % result_width * STRIDE[1] - PADDING[1]
    position = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    is_stored = position < stored[0]
    row = tl.where(is_stored, rotated(position, offsets[0], stored[0]), 0)

    total = tl.zeros((PIXELS, CHANNELS), tl.float32)
    for first in range(0, KERNEL[0] * KERNEL[1] * INPUTS, BLOCK_DEPTH):
        k = first + tl.arange(0, BLOCK_DEPTH)
        is_depth = k < KERNEL[0] * KERNEL[1] * INPUTS
        tap_row = k // (KERNEL[1] * INPUTS)
        tap_column = k // INPUTS % KERNEL[1]
        c = k % INPUTS
        y = top[:, None] + (tap_row * DILATION[0])[None, :]
        x = left[:, None] + (tap_column * DILATION[1])[None, :]
        inside = (y >= 0) & (y < source_height) & (x >= 0) & (x < source_width)
        inside = inside & is_pixel[:, None] & is_depth[None, :]
        elements = (image * source_strides[0])[:, None] + (c * source_strides[1])[None, :]
        elements = tl.where(inside, elements + y * source_strides[2] + x * source_strides[3], 0)
        a = tl.load(source + elements, mask=inside, other=0.0)
        taps = rotated(c, offsets[1], stored[1]) * weight_strides[1]
        taps = tl.where(is_depth, taps + tap_row * weight_strides[2] + tap_column * weight_strides[3], 0)
        weigh = is_depth[:, None] & is_stored[None, :]
        b = tl.load(weight + taps[:, None] + (row * weight_strides[0])[None, :], mask=weigh, other=0.0)
        if UPCAST:
            a = a.to(tl.float32)
            b = b.to(tl.float32)
        total = tl.dot(a, b, total, input_precision=PRECISION)

    if bias is not None:
        total += tl.load(bias + row, mask=is_stored, other=0.0).to(tl.float32)[None, :]
    rounded = total.to(results[0].dtype.element_ty)
    count = tl.minimum(batch * result_height * result_width - pixel_tile * PIXELS, PIXELS).to(tl.float32)
    value = tl.where(is_pixel[:, None], rounded.to(tl.float32), 0.0)
    mean = tl.sum(value, axis=0) / count
    deviation = tl.where(is_pixel[:, None], value - mean[None, :], 0.0)
    squares = tl.sum(deviation * deviation, axis=0)
    norm_offset = 0
    for slab in tl.static_range(len(results)):
        is_result = position < outputs[slab]
        target = tl.where(is_pixel, pixel * outputs[slab], 0)[:, None] + tl.where(is_result, position, 0)[None, :]
        target = tl.max_contiguous(tl.multiple_of(target, [1, ALIGNMENT]), [1, ALIGNMENT])
        written = tl.max_constancy(is_pixel[:, None] & is_result[None, :], [1, ALIGNMENT])
        tl.store(results[slab] + target, rounded, mask=written)
        if moments is not None:
            place = moments + pixel_tile * moment_channels + norm_offset + tl.where(is_result, position, 0)
            plane = tl.num_programs(0) * moment_channels
            tl.store(place, tl.zeros_like(mean) + count, mask=is_result)
            tl.store(place + plane, mean, mask=is_result)
            tl.store(place + 2 * plane, squares, mask=is_result)
            norm_offset += outputs[slab]
