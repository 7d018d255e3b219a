"""A convolution and the batch norm that follows it, on a CPU one sub-network after the other.

There a sub-network's activations stay in the cache from the convolution to the batch norm, the addition and the ReLU,
and on the way back from the batch norm's gradient to the convolution's. Going through all slabs operator by operator
takes S times that much memory before anything is read again. Elsewhere what counts is to launch few kernels: one batch
norm takes all slabs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from slimkern.ops.backends import choose
from slimkern.ops.batch_norm import BatchNorm, BatchNormGradient, check_batch_norm, in_plain_torch, serving
from slimkern.ops.convolution import Convolution, check_convolution
from slimkern.ops.registration import Operator, wants
from slimkern.ops.rotation import Gradient
from slimkern.ops.scroll_conv2d import scroll_conv2d
from slimkern.ops.switchable_batch_norm import switchable_batch_norm

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
) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
    """`scroll_conv2d`, then `switchable_batch_norm` of its results; see there for arguments, results and errors.

    Every sub-network has a slab of its own. There is no autocast: slabs, weight and bias have one dtype. Where Triton
    convolves, it takes all slabs at once, and the batch norm follows.

    Returns:
        The results; those of the convolution, which can be differentiated too; the batch norm's mean and variance.
    """
    if choose("scroll_conv2d", slabs[0].device) == "triton":
        own = convolution
        convolved = scroll_conv2d(
            slabs, own.weight, bias, out_channels, own.out_offset, own.in_offset, own.stride, own.padding, own.dilation,
            own.groups,
        )  # fmt: skip
        results, mean, variance = switchable_batch_norm(convolved, *norm[:2], offsets, *norm[2:], residuals, relu)
        return results, convolved, mean, variance
    check_convolution(OPERATOR, slabs, convolution, bias, out_channels)
    shapes = convolution.output_shapes(slabs, out_channels)
    check_batch_norm(OPERATOR, slabs[0], shapes, norm, offsets, residuals)
    backend = choose(OPERATOR, slabs[0].device)
    return _forward(slabs, bias, out_channels, convolution, norm, offsets, residuals, relu, backend)


def _compute(
    slabs: Sequence[Tensor],
    bias: Tensor | None,
    out_channels: Sequence[int],
    convolution: Convolution,
    norm: BatchNorm,
    offsets: Sequence[int],
    residuals: Sequence[Tensor],
    relu: bool,
    backend: str,
) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
    """The operator, its batch norm by `backend`."""
    results, convolved, means, variances, served = [], [], [], [], None
    for turn in _turns(slabs):
        convolved += [
            convolution.apply(slab, bias, outputs)
            for slab, outputs in zip(slabs[turn], out_channels[turn], strict=True)
        ]
        if served is None:  # all slabs are packed and of one dtype: what takes the first ones takes the others
            served = serving(backend, convolved, norm[:4], residuals)
        own, mean, variance = norm.apply_all(convolved[turn], offsets[turn], residuals[turn], relu, served)
        results += own
        means.append(mean)
        variances.append(variance)
    return results, convolved, torch.cat(means), torch.cat(variances)


def _compute_backward(
    grads: Sequence[Tensor],
    to_convolved: Sequence[Tensor],
    slabs: Sequence[Tensor],
    convolved: Sequence[Tensor],
    rectified: Sequence[Tensor],
    convolution: Convolution,
    norm: BatchNorm,
    mean: Tensor,
    variance: Tensor,
    offsets: Sequence[int],
    residual: bool,
    needed: Sequence[bool],
    backend: str,
) -> tuple[list[Tensor], Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
    """Gradients of slabs, weight, bias, the batch norm's scale and shift, and of what went into the ReLU.

    The last are for residuals, and none without. `to_convolved` are the gradients that the convolution's results have
    besides, or none. `rectified` are the forward pass's results where a ReLU followed, else none. `needed` speaks of
    the first five; what is not needed comes back empty.
    """
    served = serving(backend, convolved, (*norm[:2], mean, variance), grads)
    of_norm = BatchNormGradient(norm, mean, bool(rectified), [True, *needed[3:]], served)
    weight = convolution.weight
    of_weight, of_bias = Gradient(weight), Gradient(weight.new_empty(weight.shape[0], 1))
    of_slabs, of_sums = [], []
    turns = _turns(slabs)
    sizes = [sum(slab.shape[1] for slab in convolved[turn]) for turn in turns]
    rows = zip(turns, mean.split_with_sizes(sizes), variance.split_with_sizes(sizes), strict=True)
    to_convolution = needed[:3]
    # The widest first: its gradient covers the whole weight, so nothing has to be filled with zeros.
    for turn, own_mean, own_variance in reversed([*rows]):
        of_convolved, sums = of_norm.backward_all(
            grads[turn], convolved[turn], rectified[turn], offsets[turn], own_mean, own_variance, residual
        )
        of_sums += sums[::-1]
        others = to_convolved[turn] or [None] * len(of_convolved)
        for grad, other, slab in reversed([*zip(of_convolved, others, slabs[turn], strict=True)]):
            if other is not None:
                grad += other
            of_slabs.append(convolution.backward(grad, slab, to_convolution, of_weight, of_bias))
    return (
        of_slabs[::-1], of_weight.total(needed[1]), of_bias.total(needed[2]).flatten(), of_norm.of_weight,
        of_norm.of_bias, of_sums[::-1],
    )  # fmt: skip


def _turns(slabs: Sequence[Tensor]) -> list[slice]:
    """Which slabs go together from the convolution through the batch norm."""
    at_once = 1 if slabs[0].device.type == "cpu" else len(slabs)
    return [slice(first, first + at_once) for first in range(0, len(slabs), at_once)]


def _save(ctx: Any, arguments: Sequence[Any], outcome: tuple) -> None:
    slabs, _, _, convolution, norm, ctx.offsets, residuals, relu, ctx.backend = arguments
    results, convolved, mean, variance = outcome
    ctx.geometry, ctx.eps, ctx.residual = convolution[1:], norm.eps, bool(residuals)
    ctx.batch_statistics = norm.running_mean is None
    ctx.save_for_backward(
        convolution.weight, norm.weight, norm.bias, mean, variance, *slabs, *convolved, *(results if relu else ())
    )
    ctx.mark_non_differentiable(mean, variance)
    # Hardly ever is anybody but the batch norm to differentiate the convolution's results: no zeros for them.
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, to_results: list[Tensor | None], to_convolved: list[Tensor | None], *_: Any) -> dict[str, Any]:
    weight, norm_weight, norm_bias, mean, variance, *saved = ctx.saved_tensors
    count = len(to_results)
    slabs, convolved, rectified = saved[:count], saved[count : 2 * count], saved[2 * count :]
    grads = _filled(to_results, convolved)
    others = _filled(to_convolved, convolved) if any(grad is not None for grad in to_convolved) else []
    given = (None, None) if ctx.batch_statistics else (mean, variance)
    names = ("slabs", "convolution_weight", "bias", "norm_weight", "norm_bias")
    *found, of_sums = _backward(
        grads, others, slabs, convolved, rectified, Convolution(weight, *ctx.geometry),
        BatchNorm(norm_weight, norm_bias, *given, ctx.eps), mean, variance, ctx.offsets, ctx.residual,
        wants(ctx, *names), ctx.backend,
    )  # fmt: skip
    return dict(zip(names, found, strict=True)) | {"residuals": (of_sums or grads) if ctx.residual else []}


def _filled(grads: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(y) if grad is None else grad for grad, y in zip(grads, like, strict=True)]


_forward = Operator(OPERATOR, _compute, in_plain_torch(_compute))
_backward = Operator(f"{OPERATOR}_backward", _compute_backward, in_plain_torch(_compute_backward))
_forward.differentiate(_save, _gradients)
