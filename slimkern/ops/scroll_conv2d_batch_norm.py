"""A convolution and the batch norm that follows it, on a CPU one sub-network after the other.

There a sub-network's activations stay in the cache from the convolution to the batch norm, the addition and the ReLU,
and on the way back from the batch norm's gradient to the convolution's. Going through all slabs operator by operator
takes S times that much memory before anything is read again. Elsewhere what counts is to launch few kernels: one batch
norm takes all slabs. Where Triton convolves, it takes all slabs at once, and notes the moments of its results on the
way: a batch norm by the batch's statistics need not take them again.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from slimkern.ops import triton
from slimkern.ops.backends import choose, unless_refused
from slimkern.ops.batch_norm import BatchNorm, BatchNormGradient, check_batch_norm, in_plain_torch, serving
from slimkern.ops.convolution import Convolution, check_convolution
from slimkern.ops.registration import Operator, wants
from slimkern.ops.rotation import Gradient, at_strides_of
from slimkern.ops.streams import slab_by_slab

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

    Every sub-network has a slab of its own. There is no autocast: slabs, weight and bias have one dtype.

    Returns:
        The results; those of the convolution, which can be differentiated too; the batch norm's mean and variance.
    """
    check_convolution(OPERATOR, slabs, convolution, bias, out_channels)
    shapes = convolution.output_shapes(slabs, out_channels)
    check_batch_norm(OPERATOR, slabs[0], shapes, norm, offsets, residuals)
    convolver = choose("scroll_conv2d", slabs[0].device)
    if convolver == "triton":
        convolver = unless_refused(OPERATOR, slabs, convolution, out_channels)
    backend = choose(OPERATOR, slabs[0].device)
    return _forward(slabs, bias, out_channels, convolution, norm, offsets, residuals, relu, convolver, backend)


def _compute(
    slabs: Sequence[Tensor],
    bias: Tensor | None,
    out_channels: Sequence[int],
    convolution: Convolution,
    norm: BatchNorm,
    offsets: Sequence[int],
    residuals: Sequence[Tensor],
    relu: bool,
    convolver: str,
    backend: str,
) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
    """The operator, its convolution by `convolver`, its batch norm by `backend`."""
    results, convolved, means, variances, served = [], [], [], [], None
    for turn in _turns(slabs, convolver):
        given, moments = _convolve(
            slabs[turn], bias, out_channels[turn], convolution, norm.running_mean is None, convolver
        )
        if served is None:  # all slabs are packed and of one dtype: what takes the first ones takes the others
            served = serving(backend, given, norm[:4], residuals)
        own, mean, variance = norm.apply_all(given, offsets[turn], residuals[turn], relu, served, moments)
        convolved += given
        results += own
        means.append(mean)
        variances.append(variance)
    return results, convolved, torch.cat(means), torch.cat(variances)


def _convolve(
    slabs: Sequence[Tensor],
    bias: Tensor | None,
    out_channels: Sequence[int],
    convolution: Convolution,
    moments: bool,
    convolver: str,
) -> triton.Noted:
    """The convolution's results and, if they are wanted and Triton noted them, their moments."""
    in_torch = partial(convolution.apply_all, slabs, bias, out_channels)
    if convolver == "torch":
        return in_torch(), None
    ways = slab_by_slab(in_torch, len(slabs))
    return triton.forward(slabs, bias, out_channels, convolution, ways, moments=moments)


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
    kept: Sequence[Tensor],
    convolver: str,
    backend: str,
) -> tuple[list[Tensor], Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
    """Gradients of slabs, weight, bias, the batch norm's scale and shift, and of what went into the ReLU.

    The last are for residuals, and none without. `to_convolved` are the gradients that the convolution's results have
    besides, or none. `rectified` are the forward pass's results where a ReLU followed, else none. `needed` speaks of
    the first five; what is not needed comes back empty. `kept` is what `triton.kept_weight` gave after the forward
    pass.
    """
    served = serving(backend, convolved, (*norm[:2], mean, variance), grads)
    of_norm = BatchNormGradient(norm, mean, bool(rectified), [True, *needed[3:]], served)
    if convolver == "triton":
        of_convolved, of_sums = of_norm.backward_all(grads, convolved, rectified, offsets, mean, variance, residual)
        for grad, other in zip(of_convolved, to_convolved, strict=bool(to_convolved)):
            grad += other
        ways = slab_by_slab(partial(convolution.backward_all, of_convolved, slabs), len(slabs))
        found = triton.gradients(of_convolved, slabs, convolution, needed[:3], ways, kept=kept)
        return *found, of_norm.of_weight, of_norm.of_bias, of_sums
    weight = convolution.weight
    of_weight, of_bias = Gradient(weight), Gradient(weight.new_empty(weight.shape[0], 1))
    of_slabs, of_sums = [], []
    turns = _turns(slabs, convolver)
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


def _fake_backward(*arguments: Any) -> tuple[list[Tensor], Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
    weight, convolver = arguments[5].weight, arguments[-2]
    of_slabs, of_weight, *others = in_plain_torch(_compute_backward, 2)(*arguments)
    return of_slabs, of_weight if convolver == "torch" else at_strides_of(weight, of_weight), *others


def _turns(slabs: Sequence[Tensor], convolver: str) -> list[slice]:
    """Which slabs go together from the convolution through the batch norm."""
    at_once = 1 if slabs[0].device.type == "cpu" and convolver == "torch" else len(slabs)
    return [slice(first, first + at_once) for first in range(0, len(slabs), at_once)]


def _save(ctx: Any, arguments: Sequence[Any], outcome: tuple) -> None:
    slabs, _, _, convolution, norm, ctx.offsets, residuals, ctx.relu, ctx.convolver, ctx.backend = arguments
    results, convolved, mean, variance = outcome
    ctx.geometry, ctx.eps, ctx.residual = convolution[1:], norm.eps, bool(residuals)
    ctx.batch_statistics = norm.running_mean is None
    ctx.save_for_backward(
        convolution.weight, norm.weight, norm.bias, mean, variance, *slabs, *convolved,
        *(results if ctx.relu else ()), *triton.kept_weight(convolved),
    )  # fmt: skip
    ctx.mark_non_differentiable(mean, variance)
    # Hardly ever is anybody but the batch norm to differentiate the convolution's results: no zeros for them.
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, to_results: list[Tensor | None], to_convolved: list[Tensor | None], *_: Any) -> dict[str, Any]:
    weight, norm_weight, norm_bias, mean, variance, *saved = ctx.saved_tensors
    count = len(to_results)
    slabs, convolved, others = saved[:count], saved[count : 2 * count], saved[2 * count :]
    rectified, kept = (others[:count], others[count:]) if ctx.relu else ([], others)
    grads = _filled(to_results, convolved)
    besides = _filled(to_convolved, convolved) if any(grad is not None for grad in to_convolved) else []
    given = (None, None) if ctx.batch_statistics else (mean, variance)
    names = ("slabs", "convolution_weight", "bias", "norm_weight", "norm_bias")
    *found, of_sums = _backward(
        grads, besides, slabs, convolved, rectified, Convolution(weight, *ctx.geometry),
        BatchNorm(norm_weight, norm_bias, *given, ctx.eps), mean, variance, ctx.offsets, ctx.residual,
        wants(ctx, *names), kept, ctx.convolver, ctx.backend,
    )  # fmt: skip
    return dict(zip(names, found, strict=True)) | {"residuals": (of_sums or grads) if ctx.residual else []}


def _filled(grads: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(y) if grad is None else grad for grad, y in zip(grads, like, strict=True)]


_forward = Operator(OPERATOR, _compute, in_plain_torch(_compute, 2))
_backward = Operator(f"{OPERATOR}_backward", _compute_backward, _fake_backward)
_forward.differentiate(_save, _gradients)
