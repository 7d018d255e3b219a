"""Convolution of every slab by its sub-network's part of one weight, read through rotated channel indices."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from slimkern.ops import triton
from slimkern.ops.backends import choose, unless_refused
from slimkern.ops.batch_norm import in_plain_torch
from slimkern.ops.checks import autocast
from slimkern.ops.convolution import Convolution, check_convolution, packed
from slimkern.ops.registration import Operator, wants
from slimkern.ops.rotation import at_strides_of, sum_of_prefixes
from slimkern.ops.streams import Run, in_sequence, slab_by_slab


def scroll_conv2d(
    slabs: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor | None,
    out_channels: Sequence[int],
    out_offset: int = 0,
    in_offset: int = 0,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> list[Tensor]:
    """Convolve each slab with the sub-network that takes its channels and gives `out_channels`.

    y[i] = sum_j W[(i + out_offset) mod C_out, (j + in_offset) mod C_in] * x[j] + b[...].
    With groups, whole groups are cut and rotated, so `in_offset` is that of the input channels and follows from
    `out_offset`.

    Args:
        slabs: [N, C_s, H, W] each, or a single one that all sub-networks share; float64, float32, bfloat16 or float16.
        weight: [C_out, C_in / groups, kernel height, kernel width], the whole stored weight, of the slabs' dtype
            (any, under autocast).
        bias: [C_out] or None.
        out_channels: channels that each sub-network gives.
        out_offset: stored channel that output position 0 is, in [0, C_out).
        in_offset: stored channel that input position 0 is, in [0, C_in).
        stride: as in `torch.nn.functional.conv2d`, height then width; likewise `padding` and `dilation`.
        padding: zeros on both sides.
        dilation: distance of the kernel's taps.
        groups: groups of the whole weight.

    Returns:
        One packed channels-last tensor [N, out_channels[s], H', W'] a sub-network.

    Raises:
        ValueError: a wrong rank, channel count, offset, device or dtype, or an empty batch.
    """
    slabs, weight, bias = autocast(slabs, weight, bias)
    convolution = Convolution(weight, out_offset, in_offset, stride, padding, dilation, groups)
    check_convolution("scroll_conv2d", slabs, convolution, bias, out_channels)
    backend = choose("scroll_conv2d", slabs[0].device)
    if backend == "triton":
        backend = unless_refused("scroll_conv2d", slabs, convolution, out_channels)
    return _forward(slabs, bias, out_channels, convolution, backend)


def _compute(
    slabs: Sequence[Tensor],
    bias: Tensor | None,
    out_channels: Sequence[int],
    convolution: Convolution,
    backend: str,
) -> list[Tensor]:
    """The operator."""
    in_torch = partial(_compute_in_torch, slabs, bias, out_channels, convolution)
    if backend == "torch":
        return in_torch()
    return triton.forward(slabs, bias, out_channels, convolution, slab_by_slab(in_torch, len(slabs)))[0]


def _compute_in_torch(
    slabs: Sequence[Tensor],
    bias: Tensor | None,
    out_channels: Sequence[int],
    convolution: Convolution,
    run: Run[Tensor] = in_sequence,
) -> list[Tensor]:
    """The specification: one convolution a slab, or one in all where the sub-networks share their input."""
    if len(slabs) == len(out_channels):
        return convolution.apply_all(slabs, bias, out_channels, run)
    whole = convolution.apply(slabs[0], bias, max(out_channels))
    *narrower, last = out_channels
    copies = [whole[:, :outputs].clone(memory_format=torch.channels_last) for outputs in narrower]
    return [*copies, whole if last == whole.shape[1] else packed(whole[:, :last])]


def _compute_backward(
    grads: Sequence[Tensor],
    slabs: Sequence[Tensor],
    convolution: Convolution,
    needed: Sequence[bool],
    backend: str,
    kept: Sequence[Tensor],
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Gradients of the slabs, the weight and the bias; those not `needed` are empty tensors.

    `kept` is what `triton.kept_weight` gave after the forward pass.
    """
    if len(slabs) < len(grads):
        grads = [sum_of_prefixes(grads, axis=1)]
    in_torch = partial(convolution.backward_all, grads, slabs)
    if backend == "torch":
        return in_torch(needed)
    return triton.gradients(grads, slabs, convolution, needed, slab_by_slab(in_torch, len(slabs)), kept=kept)


def _fake_backward(
    grads: Sequence[Tensor],
    slabs: Sequence[Tensor],
    convolution: Convolution,
    needed: Sequence[bool],
    backend: str,
    kept: Sequence[Tensor],
) -> tuple[list[Tensor], Tensor, Tensor]:
    of_slabs, of_weight, of_bias = _compute_backward(grads, slabs, convolution, needed, "torch", kept)
    return of_slabs, of_weight if backend == "torch" else at_strides_of(convolution.weight, of_weight), of_bias


def _save(ctx: Any, arguments: Sequence[Any], results: list[Tensor]) -> None:
    slabs, _, _, convolution, ctx.backend = arguments
    ctx.geometry, ctx.slabs = convolution[1:], len(slabs)
    ctx.save_for_backward(*slabs, convolution.weight, *triton.kept_weight(results))


def _gradients(ctx: Any, grads: list[Tensor]) -> dict[str, Any]:
    saved = ctx.saved_tensors
    slabs, weight, kept = saved[: ctx.slabs], saved[ctx.slabs], saved[ctx.slabs + 1 :]
    names = ("slabs", "convolution_weight", "bias")
    found = _backward(grads, slabs, Convolution(weight, *ctx.geometry), wants(ctx, *names), ctx.backend, kept)
    return dict(zip(names, found, strict=True))


_forward = Operator("scroll_conv2d", _compute, in_plain_torch(_compute))
_backward = Operator("scroll_conv2d_backward", _compute_backward, _fake_backward)
_forward.differentiate(_save, _gradients)
