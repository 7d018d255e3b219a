"""Batch norm of every slab with its own width's parameters, and the residual add and ReLU that follow it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from slimkern.ops.backends import choose
from slimkern.ops.batch_norm import BatchNorm, BatchNormGradient, check_batch_norm, in_plain_torch
from slimkern.ops.checks import check_slabs

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
        The results, shaped like the slabs; the mean and the biased variance that they were normalised by, [sum of C_s]
        in the order of the slabs.

    Raises:
        ValueError: a wrong device, shape or length, an empty batch, or one value a channel where the batch's statistics
            count.
    """
    norm = BatchNorm(weight, bias, running_mean, running_var, eps)
    check_slabs(OPERATOR, slabs)
    check_batch_norm(OPERATOR, slabs[0], [slab.shape for slab in slabs], norm, offsets, residuals)
    backend = choose(OPERATOR, slabs[0].device)
    return _forward(slabs, weight, bias, offsets, running_mean, running_var, eps, residuals, relu, backend)


def _compute(
    slabs: Sequence[Tensor],
    weight: Tensor | None,
    bias: Tensor | None,
    offsets: Sequence[int],
    running_mean: Tensor | None,
    running_var: Tensor | None,
    eps: float,
    residuals: Sequence[Tensor],
    relu: bool,
    backend: str,
) -> tuple[list[Tensor], Tensor, Tensor]:
    """The operator; with the backend torch, slab by slab, its specification."""
    norm = BatchNorm(weight, bias, running_mean, running_var, eps)
    return norm.apply_all(slabs, offsets, residuals, relu, backend)


def _compute_backward(
    grads: Sequence[Tensor],
    slabs: Sequence[Tensor],
    results: Sequence[Tensor],
    weight: Tensor | None,
    bias: Tensor | None,
    offsets: Sequence[int],
    mean: Tensor,
    variance: Tensor,
    parameters: int,
    batch_statistics: bool,
    eps: float,
    residual: bool,
    needed: Sequence[bool],
    backend: str,
) -> tuple[list[Tensor], Tensor, Tensor, list[Tensor]]:
    """Gradients of the slabs, the scale, the shift, and of what went into the ReLU where a residual did.

    `results` are the forward pass's where a ReLU followed, else none.
    """
    norm = BatchNorm(weight, bias, *((None, None) if batch_statistics else (mean, variance)), eps)
    gradient = BatchNormGradient(norm, parameters, mean, variance, bool(results), needed, backend)
    of_slabs, of_sums = gradient.backward_all(grads, slabs, results, offsets, 0, residual)
    return of_slabs, gradient.of_weight, gradient.of_bias, of_sums


def _setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
    slabs, weight, bias, ctx.offsets, running_mean, _, ctx.eps, residuals, relu, ctx.backend = inputs
    results, mean, variance = output
    ctx.batch_statistics, ctx.residuals = running_mean is None, len(residuals)
    ctx.affine = (weight is not None, bias is not None)
    ctx.parameters = next((len(vector) for vector in (weight, bias) if vector is not None), 0)
    ctx.save_for_backward(mean, variance, weight, bias if relu else None, *slabs, *(results if relu else ()))


def _autograd(ctx: Any, grads: list[Tensor], *_: Tensor) -> tuple:
    mean, variance, weight, bias, *saved = ctx.saved_tensors
    slabs, results = saved[: len(grads)], saved[len(grads) :]
    needed = [any(ctx.needs_input_grad[0])] + [has and ctx.needs_input_grad[1 + i] for i, has in enumerate(ctx.affine)]
    of_slabs, of_weight, of_bias, of_sums = _backward(
        grads, slabs, results, weight, bias, ctx.offsets, mean, variance, ctx.parameters, ctx.batch_statistics, ctx.eps,
        ctx.residuals > 0, needed, ctx.backend,
    )  # fmt: skip
    return (
        of_slabs if needed[0] else [None] * len(slabs),
        of_weight if needed[1] else None,
        of_bias if needed[2] else None,
        *[None] * 4,
        (of_sums or grads) if ctx.residuals else [],
        None,
        None,
    )


_forward = torch.library.custom_op(f"slimkern::{OPERATOR}", _compute, mutates_args=())
_forward.register_fake(in_plain_torch(_compute))
_forward.register_autograd(_autograd, setup_context=_setup_context)
_backward = torch.library.custom_op(f"slimkern::{OPERATOR}_backward", _compute_backward, mutates_args=())
_backward.register_fake(in_plain_torch(_compute_backward))
