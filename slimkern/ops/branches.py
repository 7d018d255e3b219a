"""Rows with weights of their own: what they demand, which of them learn, and how gradients go back to those.

A row is frozen where neither its slab, its weight nor its bias requires a gradient. Its result doesn't either, nothing
of it is kept for the backward pass, and no part of that pass is spent on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from slimkern.ops.checks import autocast_dtype, check_bias, check_slabs, check_weight
from slimkern.ops.registration import Operator

Branches = tuple[list[Tensor], list[Tensor], list[Tensor]]
"""Slabs (one a row, or a single one for all), weights, and biases, of which there are none or one a row."""


def branches_of(
    operator: str,
    slabs: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None] | None,
    slab_axes: int | None,
    channel_axis: int,
    weight_axes: int,
) -> Branches:
    """Check the arguments of a call, cast them as autocast asks for, and put zeros where only some rows have a bias.

    Raises:
        ValueError: a wrong rank, channel count, length of a list, device or dtype, or an empty batch.
    """
    if not weights:
        raise ValueError(f"{operator}: weights is empty; at least one weight is needed")
    if len(slabs) not in (1, len(weights)):
        raise ValueError(f"{operator}: {len(slabs)} slabs for {len(weights)} weights; give as many, or one to share")
    if biases is not None and len(biases) != len(weights):
        raise ValueError(f"{operator}: {len(biases)} biases for {len(weights)} weights; give as many, or None")
    check_slabs(operator, slabs, slab_axes)
    own = list(biases or [None] * len(weights))
    if dtype := autocast_dtype(slabs[0]):
        slabs, weights = ([tensor.to(dtype) for tensor in tensors] for tensors in (slabs, weights))
        own = [None if bias is None else bias.to(dtype) for bias in own]
    for place, (weight, bias) in enumerate(zip(weights, own, strict=True)):
        slab = slabs[place % len(slabs)]
        check_weight(operator, f"weights[{place}]", weight, slab)
        if weight.dim() != weight_axes or weight.numel() == 0:
            raise ValueError(
                f"{operator}: weights[{place}] has shape {tuple(weight.shape)}; it must have {weight_axes} axes, "
                "none of them empty"
            )
        if slab.shape[channel_axis] != weight.shape[1]:
            raise ValueError(
                f"{operator}: weights[{place}] takes {weight.shape[1]} channels; its slab has "
                f"{slab.shape[channel_axis]}"
            )
        check_weight(operator, f"biases[{place}]", bias, slab)
        check_bias(operator, bias, weight.shape[0])
    if all(bias is None for bias in own):
        return list(slabs), list(weights), []
    return (
        list(slabs),
        list(weights),
        [w.new_zeros(len(w)) if bias is None else bias for w, bias in zip(weights, own, strict=True)],
    )


def differentiate(forward: Operator, backward: Operator) -> None:
    """Register the gradients of an operator of rows.

    Args:
        forward: takes slabs, weights, biases and further plain arguments, and gives one result a row.
        backward: takes gradients, slabs (or one that all share) and weights of some rows, whether the gradient of each
            row's slab, weight and bias is needed, three flags a row, and the same further arguments. Gives the
            gradients of slabs, weights and biases, empty where not needed.
    """

    def save(ctx: Any, arguments: Sequence[Any], results: list[Tensor]) -> None:
        slabs, weights, biases, *ctx.further = arguments
        rows = range(len(weights))
        ctx.shared = len(slabs) < len(weights)
        sources = [0 if ctx.shared else row for row in rows]
        ctx.live = [
            row
            for row in rows
            if any(own.requires_grad for own in (slabs[sources[row]], weights[row], *biases[row : row + 1]))
        ]
        ctx.mark_non_differentiable(*(results[row] for row in rows if row not in ctx.live))
        ctx.set_materialize_grads(False)
        kept = slabs if ctx.shared else [slabs[row] for row in ctx.live]
        ctx.counts = len(slabs), len(weights)
        ctx.save_for_backward(*kept, *(weights[row] for row in ctx.live))

    def gradients(ctx: Any, grads: list[Tensor | None]) -> dict[str, Any]:
        count = 1 if ctx.shared else len(ctx.live)
        slabs, weights = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        asked = [grads[row] is not None for row in ctx.live]
        rows = [row for row, own in zip(ctx.live, asked, strict=True) if own]
        weights = [weight for weight, own in zip(weights, asked, strict=True) if own]
        if not ctx.shared:
            slabs = [slab for slab, own in zip(slabs, asked, strict=True) if own]
        of_slabs: list[Tensor | None] = [None] * ctx.counts[0]
        of_weights: list[Tensor | None] = [None] * ctx.counts[1]
        of_biases: list[Tensor | None] = [None] * len(ctx.wanted["biases"])
        needed: list[bool] = []
        for row in rows:
            needed.append(ctx.wanted["slabs"][0 if ctx.shared else row])
            needed.append(ctx.wanted["weights"][row])
            needed.append(bool(of_biases) and ctx.wanted["biases"][row])
        if rows:
            found = backward([grads[row] for row in rows], slabs, weights, needed, *ctx.further)
            for place, own in zip([0] if ctx.shared else rows, found[0], strict=True):
                of_slabs[place] = own
            for row, of_weight, of_bias in zip(rows, *found[1:], strict=True):
                of_weights[row] = of_weight
                if of_biases:
                    of_biases[row] = of_bias
        return {"slabs": of_slabs, "weights": of_weights, "biases": of_biases}

    forward.differentiate(save, gradients)


def summed(gradients: Sequence[Tensor]) -> Tensor:
    """The gradient of a slab that several rows share."""
    total = gradients[0]
    for own in gradients[1:]:
        total = total.add_(own)
    return total
