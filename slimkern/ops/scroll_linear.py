"""Linear map of every slab by its sub-network's part of one weight, read through rotated channel indices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from slimkern.kernels.configurations import TORCH
from slimkern.ops import triton
from slimkern.ops.backends import choose, unless_refused
from slimkern.ops.batch_norm import in_plain_torch
from slimkern.ops.checks import autocast, check_bias, check_channels, check_offset, check_slabs, check_weight
from slimkern.ops.convolution import Convolution
from slimkern.ops.registration import Operator, wants
from slimkern.ops.rotation import Gradient, at_strides_of, read, read_bias, sum_of_prefixes


def scroll_linear(
    slabs: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor | None,
    out_features: Sequence[int],
    out_offset: int = 0,
    in_offset: int = 0,
) -> list[Tensor]:
    """Map each slab by the sub-network that takes its features and gives `out_features`.

    y[i] = sum_j W[(i + out_offset) mod C_out, (j + in_offset) mod C_in] * x[j] + b[...].

    Args:
        slabs: [..., C_s] each, or a single one that all sub-networks share; float64, float32, bfloat16 or float16.
        weight: [C_out, C_in], the whole stored weight, of the slabs' dtype (any, under autocast).
        bias: [C_out] or None.
        out_features: features that each sub-network gives.
        out_offset: stored feature that output position 0 is, in [0, C_out).
        in_offset: stored feature that input position 0 is, in [0, C_in).

    Returns:
        One tensor [..., out_features[s]] a sub-network.

    Raises:
        ValueError: a wrong feature count, offset, device or dtype, or an empty batch.
    """
    check_slabs("scroll_linear", slabs)
    slabs, weight, bias = autocast(slabs, weight, bias)
    check_weight("scroll_linear", "weight", weight, slabs[0])
    check_weight("scroll_linear", "bias", bias, slabs[0])
    check_bias("scroll_linear", bias, weight.shape[0])
    check_channels("scroll_linear", slabs, -1, out_features, (weight.shape[0], weight.shape[1]))
    check_offset("scroll_linear", "out_offset", out_offset, weight.shape[0])
    check_offset("scroll_linear", "in_offset", in_offset, weight.shape[1])
    backend = choose("scroll_linear", slabs[0].device)
    if backend == "triton":
        one_by_one = _convolution(weight, out_offset, in_offset)
        backend = unless_refused("scroll_linear", _images(slabs), one_by_one, out_features)
    return _forward(slabs, weight, bias, out_features, out_offset, in_offset, backend)


def _convolution(weight: Tensor, out_offset: int, in_offset: int) -> Convolution:
    """The linear map as a convolution of images of one pixel."""
    return Convolution(weight[:, :, None, None], out_offset, in_offset, (1, 1), (0, 0), (1, 1), 1)


def _images(slabs: Sequence[Tensor]) -> list[Tensor]:
    """Slabs [..., C] as [N, C, 1, 1]."""
    return [slab.reshape(-1, slab.shape[-1], 1, 1) for slab in slabs]


def _compute(
    slabs: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor | None,
    out_features: Sequence[int],
    out_offset: int,
    in_offset: int,
    backend: str,
) -> list[Tensor]:
    """The operator; in plain torch, one matrix product a slab, or one in all where the input is shared."""
    if backend == "triton":
        one_by_one = _convolution(weight, out_offset, in_offset)

        def in_torch() -> list[Tensor]:
            return _images(_compute(slabs, weight, bias, out_features, out_offset, in_offset, "torch"))

        results, _ = triton.forward(_images(slabs), bias, out_features, one_by_one, {TORCH: in_torch}, linear=True)
        return [result.reshape(*slabs[0].shape[:-1], -1) for result in results]

    def apply(slab: Tensor, outputs: int) -> Tensor:
        part = read(weight, (outputs, slab.shape[-1]), (out_offset, in_offset))
        return F.linear(slab, part, None if bias is None else read_bias(bias, outputs, out_offset))

    if len(slabs) == len(out_features):
        return [apply(slab, outputs) for slab, outputs in zip(slabs, out_features, strict=True)]
    whole = apply(slabs[0], max(out_features))
    return [whole[..., :outputs].clone() for outputs in out_features]


def _compute_backward(
    grads: Sequence[Tensor],
    slabs: Sequence[Tensor],
    weight: Tensor,
    out_offset: int,
    in_offset: int,
    needed: Sequence[bool],
    backend: str,
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Gradients of the slabs, the weight and the bias; those not `needed` are empty tensors."""
    if len(slabs) < len(grads):
        grads = [sum_of_prefixes(grads, axis=-1)]
    if backend == "torch":
        return _backward_in_torch(grads, slabs, weight, out_offset, in_offset, needed)
    of_slabs, of_weight, of_bias = triton.gradients(
        _images(grads), _images(slabs), _convolution(weight, out_offset, in_offset), needed,
        {TORCH: lambda left: _backward_in_torch(grads, slabs, weight, out_offset, in_offset, left)}, linear=True,
    )  # fmt: skip
    if needed[0]:
        of_slabs = [own.reshape(slab.shape) for own, slab in zip(of_slabs, slabs, strict=True)]
    return of_slabs, at_strides_of(weight, of_weight.reshape(weight.shape)) if needed[1] else of_weight, of_bias


def _backward_in_torch(
    grads: Sequence[Tensor],
    slabs: Sequence[Tensor],
    weight: Tensor,
    out_offset: int,
    in_offset: int,
    needed: Sequence[bool],
) -> tuple[list[Tensor], Tensor, Tensor]:
    """The specification of the gradients, slab by slab."""
    of_slabs, of_weight, of_bias = [], Gradient(weight), Gradient(weight.new_empty(weight.shape[0], 1))
    # The widest first: its gradient covers the whole weight, so nothing has to be filled with zeros.
    for slab, grad in zip(reversed(slabs), reversed(grads), strict=True):
        part = read(weight, (grad.shape[-1], slab.shape[-1]), (out_offset, in_offset))
        of_slabs.insert(0, grad @ part if needed[0] else slab.new_empty(0))
        rows = grad.reshape(-1, grad.shape[-1])
        if needed[1]:
            of_weight.add(rows.T @ slab.reshape(-1, slab.shape[-1]), (out_offset, in_offset))
        if needed[2]:
            of_bias.add(rows.sum(0)[:, None], (out_offset, 0))
    return of_slabs, of_weight.total(needed[1]), of_bias.total(needed[2]).flatten()


def _fake_backward(
    grads: Sequence[Tensor],
    slabs: Sequence[Tensor],
    weight: Tensor,
    out_offset: int,
    in_offset: int,
    needed: Sequence[bool],
    backend: str,
) -> tuple[list[Tensor], Tensor, Tensor]:
    found = _compute_backward(grads, slabs, weight, out_offset, in_offset, needed, "torch")
    of_slabs, of_weight, of_bias = found
    return of_slabs, of_weight if backend == "torch" else at_strides_of(weight, of_weight), of_bias


def _save(ctx: Any, arguments: Sequence[Any], results: list[Tensor]) -> None:
    slabs, weight, _, _, *ctx.offsets, ctx.backend = arguments
    ctx.save_for_backward(*slabs, weight)


def _gradients(ctx: Any, grads: list[Tensor]) -> dict[str, Any]:
    *slabs, weight = ctx.saved_tensors
    names = ("slabs", "weight", "bias")
    found = _backward(grads, slabs, weight, *ctx.offsets, wants(ctx, *names), ctx.backend)
    return dict(zip(names, found, strict=True))


_forward = Operator("scroll_linear", _compute, in_plain_torch(_compute))
_backward = Operator("scroll_linear_backward", _compute_backward, _fake_backward)
_forward.differentiate(_save, _gradients)
