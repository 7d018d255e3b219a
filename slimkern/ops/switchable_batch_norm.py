"""Batch norm of every slab with its own width's parameters, and the residual add and ReLU that follow it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from slimkern.ops.backends import choose
from slimkern.ops.checks import check_slabs, check_weight

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

    Returns:
        The results, shaped like the slabs; the batch's mean and its biased variance, [sum of C_s] in the order of the
        slabs (empty where running ones were used).

    Raises:
        ValueError: a wrong device, shape or length, an empty batch, or one value a channel where the batch's statistics
            count.
    """
    check_slabs(OPERATOR, slabs)
    vectors = {"weight": weight, "bias": bias, "running_mean": running_mean, "running_var": running_var}
    for name, vector in vectors.items():
        check_weight(OPERATOR, name, vector, slabs[0], any_dtype=True)
        for slab, offset in zip(slabs, offsets, strict=True):
            if vector is not None and not 0 <= offset <= vector.shape[0] - slab.shape[1]:
                raise ValueError(
                    f"{OPERATOR}: {name} has {vector.shape[0]} entries; a slab of {slab.shape[1]} channels at offset "
                    f"{offset} does not fit"
                )
    if (running_mean is None) != (running_var is None):
        raise ValueError(f"{OPERATOR}: give running_mean and running_var both, or neither")
    if running_mean is None and slabs[0].numel() == slabs[0].shape[1]:
        raise ValueError(
            f"{OPERATOR}: a batch of shape {tuple(slabs[0].shape)} has one value a channel, so no variance; the "
            "batch's statistics need at least two"
        )
    if residuals and [r.shape for r in residuals] != [slab.shape for slab in slabs]:
        raise ValueError(
            f"{OPERATOR}: residuals of shapes {[tuple(r.shape) for r in residuals]} must match the slabs' "
            f"{[tuple(slab.shape) for slab in slabs]}"
        )
    choose(OPERATOR, slabs[0].device)
    return _forward(slabs, weight, bias, offsets, running_mean, running_var, eps, residuals, relu)


def _reference(
    slabs: Sequence[Tensor],
    weight: Tensor | None,
    bias: Tensor | None,
    offsets: Sequence[int],
    running_mean: Tensor | None,
    running_var: Tensor | None,
    eps: float,
    residuals: Sequence[Tensor],
    relu: bool,
) -> tuple[list[Tensor], Tensor, Tensor]:
    """The operator in plain torch, slab by slab."""
    results, means, variances = [], [], []
    for place, (slab, offset) in enumerate(zip(slabs, offsets, strict=True)):
        own = slice(offset, offset + slab.shape[1])
        scale, shift = _at(weight, own), _at(bias, own)
        if running_mean is not None and running_var is not None:
            result = F.batch_norm(slab, running_mean[own], running_var[own], scale, shift, False, 0.0, eps)
        else:
            # Momentum 1 turns the running statistics into the batch's own.
            mean, variance = slab.new_zeros(2, slab.shape[1], dtype=_statistics_dtype(slab, weight))
            result = F.batch_norm(slab, mean, variance, scale, shift, True, 1.0, eps)
            count = slab.numel() // slab.shape[1]
            means.append(mean)
            variances.append(variance * ((count - 1) / count))
        if residuals:
            result += residuals[place]
        results.append(result.relu_() if relu else result)
    if not means:
        return results, slabs[0].new_empty(0), slabs[0].new_empty(0)
    return results, torch.cat(means), torch.cat(variances)


def _reference_backward(
    grads: Sequence[Tensor],
    slabs: Sequence[Tensor],
    rectified: Sequence[Tensor],
    weight: Tensor | None,
    offsets: Sequence[int],
    mean: Tensor,
    variance: Tensor,
    parameters: int,
    batch_statistics: bool,
    eps: float,
    needed: Sequence[bool],
) -> tuple[list[Tensor], Tensor, Tensor, list[Tensor]]:
    """Gradients of the slabs, the scale, the shift, and of what went into the ReLU, in plain torch.

    `rectified` are the forward pass's results where a ReLU followed, else none. `mean` and `variance` are those that
    the slabs were normalised by, in the order of the slabs. What is not `needed` comes back empty.
    """
    inverse = torch.rsqrt(variance + eps)
    of_slabs, of_sums = [], []
    of_weight, of_bias = mean.new_zeros(parameters), mean.new_zeros(parameters)
    start = 0
    for place, (slab, grad, offset) in enumerate(zip(slabs, grads, offsets, strict=True)):
        if rectified:
            grad = torch.ops.aten.threshold_backward(grad, rectified[place], 0)
            of_sums.append(grad)
        own, here = slice(offset, offset + slab.shape[1]), slice(start, start + slab.shape[1])
        start = here.stop
        to_slab, to_weight, to_bias = torch.ops.aten.native_batch_norm_backward(
            grad, slab, _at(weight, own), mean[here], variance[here], mean[here], inverse[here], batch_statistics, eps,
            needed,
        )  # fmt: skip
        of_slabs.append(to_slab if needed[0] else slab.new_empty(0))
        if needed[1]:
            of_weight[own] = to_weight
        if needed[2]:
            of_bias[own] = to_bias
    return of_slabs, of_weight, of_bias, of_sums


def _at(vector: Tensor | None, own: slice) -> Tensor | None:
    return None if vector is None else vector[own]


def _statistics_dtype(slab: Tensor, weight: Tensor | None) -> torch.dtype:
    if weight is not None:
        return weight.dtype
    return slab.dtype if slab.dtype == torch.float64 else torch.float32


def _setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
    slabs, weight, bias, offsets, running_mean, running_var, ctx.eps, residuals, relu = inputs
    results, mean, variance = output
    ctx.batch_statistics = running_mean is None
    if not ctx.batch_statistics:
        own = [slice(offset, offset + slab.shape[1]) for slab, offset in zip(slabs, offsets, strict=True)]
        mean, variance = (torch.cat([vector[part] for part in own]) for vector in (running_mean, running_var))
    ctx.offsets, ctx.residuals, ctx.affine = offsets, len(residuals), (weight is not None, bias is not None)
    ctx.parameters = next((len(vector) for vector in (weight, bias) if vector is not None), 0)
    ctx.save_for_backward(mean, variance, weight, *slabs, *(results if relu else ()))


def _autograd(ctx: Any, grads: list[Tensor], *_: Tensor) -> tuple:
    mean, variance, weight, *saved = ctx.saved_tensors
    slabs, rectified = saved[: len(grads)], saved[len(grads) :]
    needed = [any(ctx.needs_input_grad[0])] + [has and ctx.needs_input_grad[1 + i] for i, has in enumerate(ctx.affine)]
    of_slabs, of_weight, of_bias, of_sums = _backward(
        grads,
        slabs,
        rectified,
        weight,
        ctx.offsets,
        mean,
        variance,
        ctx.parameters,
        ctx.batch_statistics,
        ctx.eps,
        needed,
    )
    return (
        of_slabs if needed[0] else [None] * len(slabs),
        of_weight if needed[1] else None,
        of_bias if needed[2] else None,
        *[None] * 4,
        (of_sums or grads) if ctx.residuals else [],
        None,
    )


_forward = torch.library.custom_op(f"slimkern::{OPERATOR}", _reference, mutates_args=())
_forward.register_fake(_reference)
_forward.register_autograd(_autograd, setup_context=_setup_context)
_backward = torch.library.custom_op(f"slimkern::{OPERATOR}_backward", _reference_backward, mutates_args=())
_backward.register_fake(_reference_backward)
