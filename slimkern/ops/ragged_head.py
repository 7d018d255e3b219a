"""The end of a network: global average pooling, one linear head that all sub-networks share, softmax cross-entropy."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from slimkern.ops import native
from slimkern.ops.backends import choose
from slimkern.ops.checks import check_offset, check_slabs
from slimkern.ops.registration import Operator, wants
from slimkern.ops.rotation import Gradient, read

OPERATOR = "ragged_head"


def ragged_head(
    slabs: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    in_offset: int = 0,
    first: int = 0,
    last: int | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Pool each slab, classify it by the head's part of its features, and take the loss over a range of classes.

    logits[n, k] = sum_j weight[k, (j + in_offset) mod C] * mean of slab[n, j] + bias[k]; the loss of a width is the
    mean over the images of log(sum of exp(logits[n, first:last])) - logits[n, labels[n]]. Autocast changes nothing.

    Args:
        slabs: [N, C_s, H, W] or already pooled [N, C_s] each; float64, float32, bfloat16 or float16.
        weight: [classes, C], of the slabs' dtype or float32.
        bias: [classes], likewise, or None.
        labels: [N] int64, each in [first, last). Others are refused on a CPU; elsewhere they aren't looked at, as that
            would wait for the device: compiled kernels make their width's loss NaN, plain torch fails later.
        in_offset: stored feature that position 0 is, in [0, C).
        first: first class that competes in the loss.
        last: the class after the last one; all classes by default.

    Returns:
        One loss a width [S], and one tensor of logits [N, classes] a width; float32, or float64 for such slabs. All
        classes have logits, in the range or not.

    Raises:
        ValueError: a wrong shape, dtype or device, an empty range or batch, or, on a CPU, a label outside the range.
    """
    last = weight.shape[0] if last is None else last
    _check(slabs, weight, bias, labels, in_offset, first, last)
    losses, logits, _ = _forward(slabs, weight, bias, labels, in_offset, first, last, choose(OPERATOR, slabs[0].device))
    return losses, logits


def _precision(dtype: torch.dtype) -> torch.dtype:
    """What sums are taken in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _check(
    slabs: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    in_offset: int,
    first: int,
    last: int,
) -> None:
    check_slabs(OPERATOR, slabs)
    slab, allowed = slabs[0], {slabs[0].dtype, _precision(slabs[0].dtype)}
    for name, tensor, dim in (("weight", weight, 2), ("bias", bias, 1)):
        if tensor is None:
            continue
        if tensor.dtype not in allowed or tensor.device != slab.device or tensor.dim() != dim:
            raise ValueError(
                f"{OPERATOR}: {name} is {tensor.dtype} of shape {tuple(tensor.shape)} on {tensor.device}; it must have "
                f"{dim} axes, be on {slab.device} like the slabs, and of {' or '.join(sorted(map(str, allowed)))}"
            )
    classes, features = weight.shape
    if bias is not None and len(bias) != classes:
        raise ValueError(f"{OPERATOR}: bias has {len(bias)} entries; the weight gives {classes} classes")
    for place, own in enumerate(slabs):
        if own.dim() not in (2, 4) or own.shape[0] != slab.shape[0] or own.shape[2:] != slab.shape[2:]:
            raise ValueError(
                f"{OPERATOR}: slabs[{place}] has shape {tuple(own.shape)}, slabs[0] {tuple(slab.shape)}; they must be "
                "[N, C, H, W] or [N, C], of one batch and image"
            )
        if own.shape[1] > features:
            raise ValueError(
                f"{OPERATOR}: slabs[{place}] has {own.shape[1]} channels; the weight takes at most {features}"
            )
    if labels.dtype != torch.int64 or labels.shape != slab.shape[:1] or labels.device != slab.device:
        raise ValueError(
            f"{OPERATOR}: labels are {labels.dtype} of shape {tuple(labels.shape)} on {labels.device}; they must be "
            f"torch.int64 of shape ({slab.shape[0]},) on {slab.device}"
        )
    check_offset(OPERATOR, "in_offset", in_offset, features)
    if not 0 <= first < last <= classes:
        raise ValueError(f"{OPERATOR}: classes {first} to {last} are no range within the {classes} of the weight")


def _check_labels(labels: Tensor, first: int, last: int) -> None:
    """Refuse labels outside the range, where looking at them doesn't wait for a device."""
    if labels.device.type != "cpu":
        return
    low, high = labels.min().item(), labels.max().item()
    if low < first or high >= last:
        raise ValueError(
            f"{OPERATOR}: labels reach from {low} to {high}; they must be classes from {first} to {last - 1}"
        )


def _takes(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> bool:
    """Whether the kernels take these parameters, for slabs of `dtype`."""
    return dtype in native.DTYPES and all(
        tensor is None or (tensor.dtype == torch.float32 and tensor.is_contiguous()) for tensor in (weight, bias)
    )


def _compute(
    slabs: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    in_offset: int,
    first: int,
    last: int,
    backend: str,
) -> tuple[Tensor, list[Tensor], Tensor]:
    """The losses, the logits, and the pooled features, flat; with the backend torch, the operator's specification."""
    _check_labels(labels, first, last)
    dtype = slabs[0].dtype
    if backend == "native" and _takes(weight, bias, dtype) and all(native.is_packed(slab) for slab in slabs):
        return torch.ops.slimkern_native.ragged_head(slabs, weight, bias, labels.contiguous(), in_offset, first, last)
    precise = _precision(dtype)
    pooled = [slab.to(precise).flatten(2).mean(2) if slab.dim() == 4 else slab.to(precise) for slab in slabs]
    own_bias = None if bias is None else bias.to(precise)
    with torch.autocast(weight.device.type, enabled=False):
        logits = [
            F.linear(own, read(weight.to(precise), (weight.shape[0], own.shape[1]), (0, in_offset)), own_bias)
            for own in pooled
        ]
    losses = torch.stack([F.cross_entropy(own[:, first:last], labels - first) for own in logits])
    return losses, logits, torch.cat([own.flatten() for own in pooled])


def _fake(
    slabs: Sequence[Tensor], weight: Tensor, bias: Tensor | None, labels: Tensor, *_: object
) -> tuple[Tensor, list[Tensor], Tensor]:
    def empty(*shape: int) -> Tensor:
        return weight.new_empty(shape, dtype=_precision(slabs[0].dtype))

    logits = [empty(slab.shape[0], weight.shape[0]) for slab in slabs]
    return empty(len(slabs)), logits, empty(sum(slab.shape[0] * slab.shape[1] for slab in slabs))


def _compute_backward(
    to_losses: Tensor,
    to_logits: Sequence[Tensor],
    logits: Sequence[Tensor],
    pooled: Tensor,
    weight: Tensor,
    labels: Tensor,
    in_offset: int,
    first: int,
    last: int,
    channels: Sequence[int],
    image: Sequence[int],
    dtype: torch.dtype,
    needed: Sequence[bool],
    backend: str,
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Gradients of the slabs, the weight and the bias; those not `needed` are missing or empty tensors.

    `to_logits` are the gradients that the logits have besides those of the losses: all of them, or none. The slabs
    themselves aren't looked at again: their `channels`, `image` and `dtype` say what their gradients are like.
    """
    batch, classes = len(labels), weight.shape[0]
    of_slabs, of_weight, of_bias = _empty_gradients(pooled, weight, batch, channels, image, dtype, needed)
    if backend == "native" and _takes(weight, None, dtype):
        torch.ops.slimkern_native.ragged_head_backward(
            to_losses.contiguous(), [own.contiguous() for own in to_logits], logits, pooled, weight,
            labels.contiguous(), in_offset, first, last, channels, of_slabs, of_weight if needed[1] else None,
            of_bias if needed[2] else None,
        )  # fmt: skip
        return of_slabs, of_weight, of_bias
    precise = weight.to(pooled.dtype)
    gradient = Gradient(precise)
    of_bias.zero_()
    bounds = pairwise([batch * sum(channels[:place]) for place in range(len(channels) + 1)])
    for place, (start, stop) in enumerate(bounds):
        own = pooled[start:stop].view(batch, channels[place])
        slopes = to_logits[place].clone() if to_logits else torch.zeros_like(logits[place])
        softmax = logits[place][:, first:last].softmax(1)
        is_label = F.one_hot(labels - first, last - first)
        slopes[:, first:last] += (softmax - is_label) * (to_losses[place] / batch)
        if needed[0]:
            part = read(precise, (classes, channels[place]), (0, in_offset))
            to_pooled = (slopes @ part) / prod(image)
            of_slabs[place].copy_(to_pooled.view(*to_pooled.shape, *[1] * len(image)))
        if needed[1]:
            gradient.add(slopes.T @ own, (0, in_offset))
        if needed[2]:
            of_bias += slopes.sum(0)
    return of_slabs, gradient.total(needed[1]).to(weight.dtype).contiguous(), of_bias


def _empty_gradients(
    pooled: Tensor,
    weight: Tensor,
    batch: int,
    channels: Sequence[int],
    image: Sequence[int],
    dtype: torch.dtype,
    needed: Sequence[bool],
) -> tuple[list[Tensor], Tensor, Tensor]:
    format_ = torch.channels_last if image else torch.contiguous_format
    of_slabs = [
        torch.empty((batch, own, *image), dtype=dtype, device=pooled.device, memory_format=format_)
        for own in channels
        if needed[0]
    ]
    of_weight = torch.empty(weight.shape if needed[1] else 0, dtype=weight.dtype, device=weight.device)
    return of_slabs, of_weight, pooled.new_empty(weight.shape[0] if needed[2] else 0)


def _fake_backward(*arguments: Any) -> tuple[list[Tensor], Tensor, Tensor]:
    _, _, _, pooled, weight, labels, _, _, _, channels, image, dtype, needed, _ = arguments
    return _empty_gradients(pooled, weight, len(labels), channels, image, dtype, needed)


def _save(ctx: Any, arguments: Sequence[Any], results: tuple) -> None:
    slabs, weight, _, labels, *ctx.geometry, ctx.backend = arguments
    _, logits, pooled = results
    ctx.channels, ctx.image, ctx.dtype = [slab.shape[1] for slab in slabs], list(slabs[0].shape[2:]), slabs[0].dtype
    ctx.save_for_backward(*logits, pooled, weight, labels)
    ctx.mark_non_differentiable(pooled)
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, to_losses: Tensor | None, to_logits: Sequence[Tensor | None], _: None) -> dict[str, Any]:
    *logits, pooled, weight, labels = ctx.saved_tensors
    losses = pooled.new_zeros(len(logits)) if to_losses is None else to_losses
    given = [] if all(grad is None for grad in to_logits) else to_logits
    others = [torch.zeros_like(logits[place]) if grad is None else grad for place, grad in enumerate(given)]
    names = ("slabs", "weight", "bias")
    found = _backward(
        losses, others, logits, pooled, weight, labels, *ctx.geometry, ctx.channels, ctx.image, ctx.dtype,
        wants(ctx, *names), ctx.backend,
    )  # fmt: skip
    return dict(zip(names, found, strict=True))


_forward = Operator(OPERATOR, _compute, _fake)
_backward = Operator(f"{OPERATOR}_backward", _compute_backward, _fake_backward)
_forward.differentiate(_save, _gradients)
