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
from slimkern.ops.batch_norm import BatchNorm, BatchNormGradient, check_batch_norm, in_plain_torch
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
    results, _, mean, variance = _forward(
        slabs, bias, out_channels, *convolution, *norm, offsets, residuals, relu, choose(OPERATOR, slabs[0].device)
    )
    return results, mean, variance


def _compute(
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
    backend: str,
) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
    """The operator, its batch norm by `backend`; also gives what came out of the convolution, for the backward pass."""
    convolution = Convolution(weight, out_offset, in_offset, stride, padding, dilation, groups)
    norm = BatchNorm(norm_weight, norm_bias, running_mean, running_var, eps)
    results, convolved, means, variances = [], [], [], []
    for place, (slab, outputs, offset) in enumerate(zip(slabs, out_channels, offsets, strict=True)):
        convolved.append(convolution.apply(slab, bias, outputs))
        residual = residuals[place : place + 1]
        result, mean, variance = norm.apply_all(convolved[-1:], [offset], residual, relu, backend)
        results += result
        means.append(mean)
        variances.append(variance)
    return results, convolved, torch.cat(means), torch.cat(variances)


def _compute_backward(
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
    norm_bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    parameters: int,
    batch_statistics: bool,
    eps: float,
    offsets: Sequence[int],
    residual: bool,
    needed: Sequence[bool],
    backend: str,
) -> tuple[list[Tensor], Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
    """Gradients of slabs, weight, bias, the batch norm's scale and shift, and of what went into the ReLU.

    The last are for residuals, and none without. `rectified` are the forward pass's results where a ReLU followed, else
    none. `needed` speaks of the first five; what is not needed comes back empty.
    """
    convolution = Convolution(weight, out_offset, in_offset, stride, padding, dilation, groups)
    norm = BatchNorm(norm_weight, norm_bias, *((None, None) if batch_statistics else (mean, variance)), eps)
    of_norm = BatchNormGradient(norm, parameters, mean, variance, bool(rectified), [True, *needed[3:]], backend)
    of_weight, of_bias = Gradient(weight), Gradient(weight.new_empty(weight.shape[0], 1))
    of_slabs, of_sums = [], []
    start = len(mean)
    # The widest first: its gradient covers the whole weight, so nothing has to be filled with zeros.
    for place in reversed(range(len(slabs))):
        own = slice(place, place + 1)
        start -= convolved[place].shape[1]
        (grad,), sums = of_norm.backward_all(grads[own], convolved[own], rectified[own], offsets[own], start, residual)
        of_sums += sums
        of_slabs.append(convolution.backward(grad, slabs[place], needed[:3], of_weight, of_bias))
    return (
        of_slabs[::-1], of_weight.total(needed[1]), of_bias.total(needed[2]).flatten(), of_norm.of_weight,
        of_norm.of_bias, of_sums[::-1],
    )  # fmt: skip


def _setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
    slabs, bias, _, weight, *geometry = inputs[:10]
    norm_weight, norm_bias, running_mean, _, eps, offsets, residuals, relu, ctx.backend = inputs[10:]
    results, convolved, mean, variance = output
    ctx.geometry, ctx.eps, ctx.offsets, ctx.residuals = geometry, eps, offsets, len(residuals)
    ctx.batch_statistics = running_mean is None
    ctx.parameters = next((len(vector) for vector in (norm_weight, norm_bias) if vector is not None), 0)
    ctx.given = [True, True, bias is not None, norm_weight is not None, norm_bias is not None]
    # The convolution's results are nobody's to differentiate: zeros for them would cost as much as an operator.
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(
        weight, norm_weight, norm_bias if relu else None, mean, variance, *slabs, *convolved, *results
    )
    ctx.relu = relu


def _autograd(ctx: Any, grads: list[Tensor | None], *_: Any) -> tuple:
    weight, norm_weight, norm_bias, mean, variance, *saved = ctx.saved_tensors
    count = len(grads)
    slabs, convolved, results = saved[:count], saved[count : 2 * count], saved[2 * count :]
    present = [torch.zeros_like(result) if grad is None else grad for grad, result in zip(grads, results, strict=True)]
    wanted = ctx.needs_input_grad
    asked = [any(wanted[0]), wanted[3], wanted[1], wanted[10], wanted[11]]
    needed = [given and asking for given, asking in zip(ctx.given, asked, strict=True)]
    of_slabs, of_weight, of_bias, of_scale, of_shift, of_sums = _backward(
        present, slabs, convolved, results if ctx.relu else [], weight, *ctx.geometry, norm_weight, norm_bias,
        mean, variance, ctx.parameters, ctx.batch_statistics, ctx.eps, ctx.offsets, ctx.residuals > 0, needed,
        ctx.backend,
    )  # fmt: skip
    return (
        of_slabs if needed[0] else [None] * count,
        of_bias if needed[2] else None,
        None,
        of_weight if needed[1] else None,
        *[None] * len(ctx.geometry),
        of_scale if needed[3] else None,
        of_shift if needed[4] else None,
        *[None] * 4,
        (of_sums or present) if ctx.residuals else [],
        None,
        None,
    )


_forward = torch.library.custom_op(f"slimkern::{OPERATOR}", _compute, mutates_args=())
_forward.register_fake(in_plain_torch(_compute))
_forward.register_autograd(_autograd, setup_context=_setup_context)
_backward = torch.library.custom_op(f"slimkern::{OPERATOR}_backward", _compute_backward, mutates_args=())
_backward.register_fake(in_plain_torch(_compute_backward))
