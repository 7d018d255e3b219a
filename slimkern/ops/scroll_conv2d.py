"""Convolution of every slab by its sub-network's part of one weight, read through rotated channel indices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from slimkern.ops.backends import choose
from slimkern.ops.checks import autocast, check_channels, check_offset, check_slabs, check_weight
from slimkern.ops.rotation import Gradient, read, read_bias, sum_of_prefixes


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

    Section 3 of the design: y[i] = sum_j W[(i + out_offset) mod C_out, (j + in_offset) mod C_in] * x[j] + b[...].
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
    check_slabs("scroll_conv2d", slabs, dim=4)
    slabs, weight, bias = autocast(slabs, weight, bias)
    check_weight("scroll_conv2d", "weight", weight, slabs[0])
    check_weight("scroll_conv2d", "bias", bias, slabs[0])
    check_channels("scroll_conv2d", slabs, 1, out_channels, (weight.shape[0], weight.shape[1] * groups))
    check_offset("scroll_conv2d", "out_offset", out_offset, weight.shape[0])
    check_offset("scroll_conv2d", "in_offset", in_offset, weight.shape[1] * groups)
    if groups > 1:
        _check_groups(slabs, weight, out_channels, (out_offset, in_offset), groups)
    choose("scroll_conv2d", weight.device)
    return _forward(slabs, weight, bias, out_channels, out_offset, in_offset, stride, padding, dilation, groups)


def _check_groups(
    slabs: Sequence[Tensor], weight: Tensor, out_channels: Sequence[int], offset: tuple[int, int], groups: int
) -> None:
    fan_in, fan_out = weight.shape[1], weight.shape[0] // groups
    for place, outputs in enumerate(out_channels):
        inputs = slabs[place if len(slabs) > 1 else 0].shape[1]
        if inputs % fan_in or outputs != inputs // fan_in * fan_out:
            raise ValueError(
                f"scroll_conv2d: {inputs} input and {outputs} output channels do not cut whole groups of {fan_in} "
                f"inputs and {fan_out} outputs"
            )
    if offset[0] * fan_in != offset[1] * fan_out or offset[1] % fan_in:
        raise ValueError(
            f"scroll_conv2d: out_offset={offset[0]} and in_offset={offset[1]} do not start at the same group of "
            f"{fan_in} inputs and {fan_out} outputs"
        )


def _reference(
    slabs: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor | None,
    out_channels: Sequence[int],
    out_offset: int,
    in_offset: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> list[Tensor]:
    """The operator in plain torch: one convolution a slab, or one in all where the sub-networks share their input."""

    def convolve(slab: Tensor, outputs: int) -> Tensor:
        part, own_groups = _part(weight, slab.shape[1], outputs, out_offset, in_offset, groups)
        own_bias = None if bias is None else read_bias(bias, outputs, out_offset)
        return _packed(F.conv2d(_packed(slab), part, own_bias, stride, padding, dilation, own_groups))

    if len(slabs) == len(out_channels):
        return [convolve(slab, outputs) for slab, outputs in zip(slabs, out_channels, strict=True)]
    whole = convolve(slabs[0], max(out_channels))
    *narrower, last = out_channels
    copies = [whole[:, :outputs].clone(memory_format=torch.channels_last) for outputs in narrower]
    return [*copies, _packed(whole[:, :last])]


def _reference_backward(
    grads: Sequence[Tensor],
    slabs: Sequence[Tensor],
    weight: Tensor,
    out_offset: int,
    in_offset: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    needed: Sequence[bool],
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Gradients of the slabs, the weight and the bias in plain torch; those not `needed` are empty tensors."""
    if len(slabs) < len(grads):
        grads = [sum_of_prefixes(grads, axis=1)]
    nothing = weight.new_empty(0)
    of_slabs, of_weight, of_bias = [], Gradient(weight), Gradient(weight.new_empty(weight.shape[0], 1))
    # The widest first: its gradient covers the whole weight, so nothing has to be filled with zeros.
    for slab, grad in zip(reversed(slabs), reversed(grads), strict=True):
        part, own_groups = _part(weight, slab.shape[1], grad.shape[1], out_offset, in_offset, groups)
        to_slab, to_part, to_bias = torch.ops.aten.convolution_backward(
            _packed(grad), _packed(slab), part, [grad.shape[1]], stride, padding, dilation, False, [0, 0], own_groups,
            needed,
        )  # fmt: skip
        of_slabs.insert(0, _packed(to_slab) if needed[0] else nothing.clone())
        if needed[1]:
            of_weight.add(to_part, (out_offset, 0 if groups > 1 else in_offset))
        if needed[2]:
            of_bias.add(to_bias[:, None], (out_offset, 0))
    return (
        of_slabs,
        of_weight.total() if needed[1] else nothing.clone(),
        of_bias.total()[:, 0] if needed[2] else nothing.clone(),
    )


def _part(
    weight: Tensor, inputs: int, outputs: int, out_offset: int, in_offset: int, groups: int
) -> tuple[Tensor, int]:
    """A sub-network's weight and groups; groups are cut whole, so a grouped weight has no input axis to rotate."""
    if groups > 1:
        return read(weight, (outputs, weight.shape[1]), (out_offset, 0)), inputs // weight.shape[1]
    return read(weight, (outputs, inputs), (out_offset, in_offset)), 1


def _packed(slab: Tensor) -> Tensor:
    return slab.contiguous(memory_format=torch.channels_last)


def _setup_context(ctx: Any, inputs: tuple, output: list[Tensor]) -> None:
    slabs, weight, bias, _, *ctx.geometry = inputs
    ctx.count, ctx.has_bias = len(slabs), bias is not None
    ctx.save_for_backward(*slabs, weight)


def _autograd(ctx: Any, grads: list[Tensor]) -> tuple:
    *slabs, weight = ctx.saved_tensors
    needed = [any(ctx.needs_input_grad[0]), ctx.needs_input_grad[1], ctx.has_bias and ctx.needs_input_grad[2]]
    of_slabs, of_weight, of_bias = _backward(grads, slabs, weight, *ctx.geometry, needed)
    return (
        of_slabs if needed[0] else [None] * len(slabs),
        of_weight if needed[1] else None,
        of_bias if needed[2] else None,
        *[None] * (1 + len(ctx.geometry)),
    )


_forward = torch.library.custom_op("slimkern::scroll_conv2d", _reference, mutates_args=())
_forward.register_fake(_reference)
_forward.register_autograd(_autograd, setup_context=_setup_context)
_backward = torch.library.custom_op("slimkern::scroll_conv2d_backward", _reference_backward, mutates_args=())
_backward.register_fake(_reference_backward)
