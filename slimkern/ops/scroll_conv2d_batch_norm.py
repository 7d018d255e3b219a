"""A convolution and the batch norm that follows it, one sub-network after the other.

A sub-network's activations stay in the cache from the convolution to the batch norm, the addition and the ReLU, and on
the way back from the batch norm's gradient to the convolution's. Going through all slabs operator by operator takes S
times that much memory before anything is read again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from slimkern.ops.backends import choose
from slimkern.ops.batch_norm import BatchNorm, BatchNormGradient, check_batch_norm
from slimkern.ops.convolution import Convolution, check_convolution
from slimkern.ops.rotation import Gradient

OPERATOR = "scroll_conv2d_batch_norm"


def scroll_conv2d_batch_norm(
    slabs: Sequence[Tensor],
    convolution: Convolution,
    bias: Tensor | None,
    out_channels: Sequence[int],
    norm: BatchNorm,
    offsets: Sequence[int],
    residuals: Sequence[Tensor] = (),
    relu: bool = False,
) -> tuple[list[Tensor], Tensor, Tensor]:
    """`scroll_conv2d`, then `switchable_batch_norm` of its results; see there for arguments, results and errors.

    Every sub-network has a slab of its own. There is no autocast: slabs, weight and bias have one dtype.
    """
    check_convolution(OPERATOR, slabs, convolution, bias, out_channels)
    shapes = [convolution.output_shape(slab, outputs) for slab, outputs in zip(slabs, out_channels, strict=True)]
    check_batch_norm(OPERATOR, slabs[0], shapes, norm, offsets, residuals)
    choose(OPERATOR, slabs[0].device)
    results, _, mean, variance = _forward(slabs, bias, out_channels, *convolution, *norm, offsets, residuals, relu)
    return results, mean, variance


def _reference(
    slabs: Sequence[Tensor],
    bias: Tensor | None,
    out_channels: Sequence[int],
    weight: Tensor,
    out_offset: int,
    in_offset: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    eps: float,
    offsets: Sequence[int],
    residuals: Sequence[Tensor],
    relu: bool,
) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
    """The operator in plain torch; also gives what came out of the convolution, for the backward pass."""
    convolution = Convolution(weight, out_offset, in_offset, stride, padding, dilation, groups)
    norm = BatchNorm(norm_weight, norm_bias, running_mean, running_var, eps)
    results, convolved, means, variances = [], [], [], []
    for place, (slab, outputs, offset) in enumerate(zip(slabs, out_channels, offsets, strict=True)):
        convolved.append(convolution.apply(slab, bias, outputs))
        result, mean, variance = norm.apply(convolved[-1], offset, residuals[place] if residuals else None, relu)
        results.append(result)
        means.append(mean)
        variances.append(variance)
    return results, convolved, torch.cat(means), torch.cat(variances)


def _reference_backward(
    grads: Sequence[Tensor],
    slabs: Sequence[Tensor],
    convolved: Sequence[Tensor],
    rectified: Sequence[Tensor],
    weight: Tensor,
    out_offset: int,
    in_offset: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    norm_weight: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    parameters: int,
    batch_statistics: bool,
    eps: float,
    offsets: Sequence[int],
    needed: Sequence[bool],
) -> tuple[list[Tensor], Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
    """Gradients in plain torch: slabs, weight, bias, the batch norm's scale and shift, and what went into the ReLU.

    `rectified` are the forward pass's results where a ReLU followed, else none. `needed` speaks of the first five; what
    is not needed comes back empty.
    """
    convolution = Convolution(weight, out_offset, in_offset, stride, padding, dilation, groups)
    of_norm = BatchNormGradient(norm_weight, parameters, mean, variance, batch_statistics, eps, [True, *needed[3:]])
    of_weight, of_bias = Gradient(weight), Gradient(weight.new_empty(weight.shape[0], 1))
    of_slabs, of_sums = [], []
    start = len(mean)
    # The widest first: its gradient covers the whole weight, so nothing has to be filled with zeros.
    for place in reversed(range(len(slabs))):
        grad = grads[place]
        if rectified:
            grad = torch.ops.aten.threshold_backward(grad, rectified[place], 0)
            of_sums.append(grad)
        start -= convolved[place].shape[1]
        grad = of_norm.backward(grad, convolved[place], offsets[place], start)
        of_slabs.append(convolution.backward(grad, slabs[place], needed[:3], of_weight, of_bias))
    return (
        of_slabs[::-1], of_weight.total(needed[1]), of_bias.total(needed[2]).flatten(), of_norm.of_weight,
        of_norm.of_bias, of_sums[::-1],
    )  # fmt: skip


def _setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
    slabs, bias, _, weight, *geometry = inputs[:10]
    norm_weight, norm_bias, running_mean, _, eps, offsets, residuals, relu = inputs[10:]
    results, convolved, mean, variance = output
    ctx.geometry, ctx.eps, ctx.offsets, ctx.residuals = geometry, eps, offsets, len(residuals)
    ctx.batch_statistics = running_mean is None
    ctx.parameters = next((len(vector) for vector in (norm_weight, norm_bias) if vector is not None), 0)
    ctx.dtypes = [None if vector is None else vector.dtype for vector in (norm_weight, norm_bias)]
    ctx.given = [True, True, bias is not None, norm_weight is not None, norm_bias is not None]
    # The convolution's results are nobody's to differentiate: zeros for them would cost as much as an operator.
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(weight, norm_weight, mean, variance, *slabs, *convolved, *(results if relu else ()))


def _autograd(ctx: Any, grads: list[Tensor | None], *_: Any) -> tuple:
    weight, norm_weight, mean, variance, *saved = ctx.saved_tensors
    count = len(grads)
    slabs, convolved, rectified = saved[:count], saved[count : 2 * count], saved[2 * count :]
    present = [torch.zeros_like(y) if grad is None else grad for grad, y in zip(grads, convolved, strict=True)]
    wanted = ctx.needs_input_grad
    asked = [any(wanted[0]), wanted[3], wanted[1], wanted[10], wanted[11]]
    needed = [given and asking for given, asking in zip(ctx.given, asked, strict=True)]
    of_slabs, of_weight, of_bias, of_scale, of_shift, of_sums = _backward(
        present, slabs, convolved, rectified, weight, *ctx.geometry, norm_weight, mean, variance, ctx.parameters,
        ctx.batch_statistics, ctx.eps, ctx.offsets, needed,
    )  # fmt: skip
    return (
        of_slabs if needed[0] else [None] * count,
        of_bias if needed[2] else None,
        None,
        of_weight if needed[1] else None,
        *[None] * len(ctx.geometry),
        of_scale.to(ctx.dtypes[0]) if needed[3] else None,
        of_shift.to(ctx.dtypes[1]) if needed[4] else None,
        *[None] * 4,
        (of_sums or present) if ctx.residuals else [],
        None,
    )


_forward = torch.library.custom_op(f"slimkern::{OPERATOR}", _reference, mutates_args=())
_forward.register_fake(_reference)
_forward.register_autograd(_autograd, setup_context=_setup_context)
_backward = torch.library.custom_op(f"slimkern::{OPERATOR}_backward", _reference_backward, mutates_args=())
_backward.register_fake(_reference_backward)
