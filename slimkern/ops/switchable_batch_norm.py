"""Batch norm of every slab with its own width's parameters, and the residual add and ReLU that follow it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from slimkern.ops.backends import choose
from slimkern.ops.batch_norm import (
    BatchNorm,
    BatchNormGradient,
    check_batch_norm,
    check_moments,
    in_plain_torch,
    serving,
)
from slimkern.ops.checks import check_slabs
from slimkern.ops.registration import Operator, wants

OPERATOR = "switchable_batch_norm"


def switchable_batch_norm(
    slabs: Sequence[Tensor],
    weight: Tensor | None,
    bias: Tensor | None,
    offsets: Sequence[int],
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    eps: float = 1e-5,
    residuals: Sequence[Tensor] = (),
    relu: bool = False,
    moments: Tensor | None = None,
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Normalise each slab by its batch's statistics, or by running ones where they are given.

    y = (x - mean) / sqrt(variance + eps) * weight + bias, a channel (Ioffe & Szegedy 2015), then y + residual and
    max(y, 0) where asked for.

    Args:
        slabs: [N, C_s, H, W] or [N, C_s] each; float64, float32, bfloat16 or float16.
        weight: [P] scale of all widths' channels one after the other, of the slabs' dtype or float32; or None.
        bias: [P] shift, likewise.
        offsets: where in the flat vectors each slab's channels start.
        running_mean: [P] mean to normalise by; None for the batch's.
        running_var: [P] variance to normalise by; None for the batch's.
        eps: added to the variance.
        residuals: one tensor a slab, of its shape, added to the normalised slab; or none.
        relu: clamp the result at zero.
        moments: [3, tiles, sum of C_s] counts, means and sums of squared deviations of the slabs' parts, in the order
            of the slabs, by whoever wrote them: they spare the pass that takes the batch's statistics. float32, or
            float64 for such slabs. Gradients are those of the batch's statistics all the same; the moments get none.

    Returns:
        The results, shaped like the slabs; the mean and the biased variance that they were normalised by, [sum of C_s]
        in the order of the slabs.

    Raises:
        ValueError: a wrong device, dtype, shape or length, an empty batch, one value a channel where the batch's
            statistics count, or moments besides running statistics.
    """
    norm = BatchNorm(weight, bias, running_mean, running_var, eps)
    check_slabs(OPERATOR, slabs)
    check_batch_norm(OPERATOR, slabs[0], [slab.shape for slab in slabs], norm, offsets, residuals)
    if moments is not None:
        check_moments(OPERATOR, moments, slabs, norm)
    return _forward(slabs, norm, offsets, residuals, relu, moments, choose(OPERATOR, slabs[0].device))


def _compute(
    slabs: Sequence[Tensor],
    norm: BatchNorm,
    offsets: Sequence[int],
    residuals: Sequence[Tensor],
    relu: bool,
    moments: Tensor | None,
    backend: str,
) -> tuple[list[Tensor], Tensor, Tensor]:
    """The operator; with the backend torch, slab by slab, its specification."""
    served = serving(backend, slabs, norm[:4], residuals)
    return norm.apply_all(slabs, offsets, residuals, relu, served, moments)


def _compute_backward(
    grads: Sequence[Tensor],
    slabs: Sequence[Tensor],
    results: Sequence[Tensor],
    norm: BatchNorm,
    offsets: Sequence[int],
    mean: Tensor,
    variance: Tensor,
    residual: bool,
    needed: Sequence[bool],
    backend: str,
) -> tuple[list[Tensor], Tensor, Tensor, list[Tensor]]:
    """Gradients of the slabs, the scale, the shift, and of what went into the ReLU where a residual did.

    `results` are the forward pass's where a ReLU followed, else none.
    """
    served = serving(backend, slabs, (*norm[:2], mean, variance), grads)
    gradient = BatchNormGradient(norm, mean, bool(results), needed, served)
    of_slabs, of_sums = gradient.backward_all(grads, slabs, results, offsets, mean, variance, residual)
    return of_slabs, gradient.of_weight, gradient.of_bias, of_sums


def _save(ctx: Any, arguments: Sequence[Any], outcome: tuple) -> None:
    slabs, norm, ctx.offsets, residuals, relu, _, ctx.backend = arguments
    results, mean, variance = outcome
    ctx.batch_statistics, ctx.eps, ctx.residual = norm.running_mean is None, norm.eps, bool(residuals)
    ctx.save_for_backward(mean, variance, norm.weight, norm.bias, *slabs, *(results if relu else ()))
    ctx.mark_non_differentiable(mean, variance)


def _gradients(ctx: Any, grads: list[Tensor], *_: None) -> dict[str, Any]:
    mean, variance, weight, bias, *saved = ctx.saved_tensors
    slabs, results = saved[: len(grads)], saved[len(grads) :]
    norm = BatchNorm(weight, bias, *((None, None) if ctx.batch_statistics else (mean, variance)), ctx.eps)
    names = ("slabs", "norm_weight", "norm_bias")
    *found, of_sums = _backward(
        grads, slabs, results, norm, ctx.offsets, mean, variance, ctx.residual, wants(ctx, *names),
        ctx.backend,
    )  # fmt: skip
    return dict(zip(names, found, strict=True)) | {"residuals": (of_sums or grads) if ctx.residual else []}


def _gradients_with_a_graph(ctx: Any, grads: list[Tensor], *_: None) -> dict[str, Any]:
    """The same in plain torch, which can differentiate them once more."""
    mean, variance, weight, bias, *saved = ctx.saved_tensors
    slabs, results = saved[: len(grads)], saved[len(grads) :]
    if results:
        grads = [grad * (result > 0) for grad, result in zip(grads, results, strict=True)]
    sizes = [slab.shape[1] for slab in slabs]
    nothing = [None] * len(slabs)
    means, variances = (nothing, nothing) if ctx.batch_statistics else (mean.split(sizes), variance.split(sizes))
    normalised = []
    for slab, offset, own_mean, own_variance in zip(slabs, ctx.offsets, means, variances, strict=True):
        scale, shift = (None if v is None else v[offset : offset + slab.shape[1]] for v in (weight, bias))
        norm = BatchNorm(scale, shift, own_mean, own_variance, ctx.eps)
        normalised.append(norm.apply(slab, 0, None, None, False)[0])
    inputs = [tensor for tensor in (*slabs, weight, bias) if tensor is not None and tensor.requires_grad]
    found = iter(torch.autograd.grad(normalised, inputs, grads, create_graph=True) if inputs else ())
    *of_slabs, of_weight, of_bias = [
        next(found) if tensor is not None and tensor.requires_grad else None for tensor in (*slabs, weight, bias)
    ]
    names = ("slabs", "norm_weight", "norm_bias", "residuals")
    return dict(zip(names, (of_slabs, of_weight, of_bias, grads if ctx.residual else []), strict=True))


_forward = Operator(OPERATOR, _compute, in_plain_torch(_compute))
_backward = Operator(f"{OPERATOR}_backward", _compute_backward, in_plain_torch(_compute_backward))
_forward.differentiate(_save, _gradients, _gradients_with_a_graph)
