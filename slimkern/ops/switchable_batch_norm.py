"""Batch norm of every slab with its own width's parameters, kept one after the other in flat vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .backends import choose
from .checks import check_slabs, check_weight


def switchable_batch_norm(
    slabs: Sequence[Tensor],
    weight: Tensor | None,
    bias: Tensor | None,
    offsets: Sequence[int],
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    eps: float = 1e-5,
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Normalise each slab by its batch's statistics, or by running ones where they are given.

    Args:
        slabs: [N, C_s, H, W] or [N, C_s] each; float64, float32, bfloat16 or float16.
        weight: [P] scale of all widths' channels one after the other, of the slabs' dtype or float32; or None.
        bias: [P] shift, likewise.
        offsets: where in the flat vectors each slab's channels start.
        running_mean: [P] mean to normalise by; None for the batch's.
        running_var: [P] variance to normalise by; None for the batch's.
        eps: added to the variance.

    Returns:
        The normalised slabs; the batch's mean and its biased variance, [sum of C_s] in the order of the slabs, in the
        dtype of the statistics (empty where running ones were used).

    Raises:
        ValueError: a wrong device or length, an empty batch, or one value a channel where the batch's statistics count.
    """
    check_slabs("switchable_batch_norm", slabs)
    vectors = {"weight": weight, "bias": bias, "running_mean": running_mean, "running_var": running_var}
    for name, vector in vectors.items():
        check_weight("switchable_batch_norm", name, vector, slabs[0], any_dtype=True)
        for slab, offset in zip(slabs, offsets, strict=True):
            if vector is not None and not 0 <= offset <= vector.shape[0] - slab.shape[1]:
                raise ValueError(
                    f"switchable_batch_norm: {name} has {vector.shape[0]} entries; a slab of {slab.shape[1]} channels "
                    f"at offset {offset} does not fit"
                )
    if (running_mean is None) != (running_var is None):
        raise ValueError("switchable_batch_norm: give running_mean and running_var both, or neither")
    if running_mean is None and slabs[0].numel() == slabs[0].shape[1]:
        raise ValueError(
            f"switchable_batch_norm: a batch of shape {tuple(slabs[0].shape)} has one value a channel, so no variance; "
            "statistics of the batch need at least two"
        )
    choose("switchable_batch_norm", slabs[0].device)
    return _forward(slabs, weight, bias, offsets, running_mean, running_var, eps)


def _reference(
    slabs: Sequence[Tensor],
    weight: Tensor | None,
    bias: Tensor | None,
    offsets: Sequence[int],
    running_mean: Tensor | None,
    running_var: Tensor | None,
    eps: float,
) -> tuple[list[Tensor], Tensor, Tensor]:
    """The operator in plain torch: one batch norm a slab."""
    results, means, variances = [], [], []
    for slab, offset in zip(slabs, offsets, strict=True):
        own = slice(offset, offset + slab.shape[1])
        scale, shift = _at(weight, own), _at(bias, own)
        if running_mean is not None and running_var is not None:
            results.append(F.batch_norm(slab, running_mean[own], running_var[own], scale, shift, False, 0.0, eps))
            continue
        # Momentum 1 turns the running statistics into the batch's own.
        mean, variance = torch.zeros(2, slab.shape[1], dtype=_statistics_dtype(slab, weight), device=slab.device)
        results.append(F.batch_norm(slab, mean, variance, scale, shift, True, 1.0, eps))
        count = slab.numel() // slab.shape[1]
        means.append(mean)
        variances.append(variance * ((count - 1) / count))
    if not means:
        return results, slabs[0].new_empty(0), slabs[0].new_empty(0)
    return results, torch.cat(means), torch.cat(variances)


def _reference_backward(
    grads: Sequence[Tensor],
    slabs: Sequence[Tensor],
    weight: Tensor | None,
    offsets: Sequence[int],
    mean: Tensor,
    variance: Tensor,
    parameters: int,
    batch_statistics: bool,
    eps: float,
    needed: Sequence[bool],
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Gradients of the slabs, the scale and the shift in plain torch; those not `needed` are empty tensors.

    `mean` and `variance` are those that the slabs were normalised by, in the order of the slabs.
    """
    inverse = torch.rsqrt(variance + eps)
    of_slabs = []
    of_weight, of_bias = mean.new_zeros(2, parameters)
    start = 0
    for slab, grad, offset in zip(slabs, grads, offsets, strict=True):
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
    return of_slabs, of_weight, of_bias.clone()


def _at(vector: Tensor | None, own: slice) -> Tensor | None:
    return None if vector is None else vector[own]


def _statistics_dtype(slab: Tensor, weight: Tensor | None) -> torch.dtype:
    if weight is not None:
        return weight.dtype
    return slab.dtype if slab.dtype == torch.float64 else torch.float32


def _setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
    slabs, weight, bias, offsets, running_mean, running_var, eps = inputs
    _, mean, variance = output
    ctx.batch_statistics = running_mean is None
    if not ctx.batch_statistics:
        own = [slice(offset, offset + slab.shape[1]) for slab, offset in zip(slabs, offsets, strict=True)]
        mean, variance = (torch.cat([vector[part] for part in own]) for vector in (running_mean, running_var))
    ctx.offsets, ctx.eps, ctx.affine = offsets, eps, (weight is not None, bias is not None)
    ctx.parameters = next((len(vector) for vector in (weight, bias) if vector is not None), 0)
    ctx.save_for_backward(*slabs, weight, mean, variance)


def _autograd(ctx: Any, grads: list[Tensor], *_: Tensor) -> tuple:
    *slabs, weight, mean, variance = ctx.saved_tensors
    needed = [any(ctx.needs_input_grad[0])] + [has and ctx.needs_input_grad[1 + i] for i, has in enumerate(ctx.affine)]
    of_slabs, of_weight, of_bias = _backward(
        grads, slabs, weight, ctx.offsets, mean, variance, ctx.parameters, ctx.batch_statistics, ctx.eps, needed
    )
    return (
        of_slabs if needed[0] else [None] * len(slabs),
        of_weight if needed[1] else None,
        of_bias if needed[2] else None,
        *[None] * 4,
    )


_forward = torch.library.custom_op("slimkern::switchable_batch_norm", _reference, mutates_args=())
_forward.register_fake(_reference)
_forward.register_autograd(_autograd, setup_context=_setup_context)
_backward = torch.library.custom_op("slimkern::switchable_batch_norm_backward", _reference_backward, mutates_args=())
_backward.register_fake(_reference_backward)
