"""Linear map of every slab by a weight of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from slimkern.ops import triton_branches
from slimkern.ops.batch_norm import in_plain_torch
from slimkern.ops.branches import branches_of, differentiate, summed
from slimkern.ops.registration import Operator

_ONE_PIXEL = ((1, 1), (0, 0), (1, 1))
"""Stride, padding and dilation of a linear map as a convolution of images of one pixel."""


def branch_linear(
    slabs: Sequence[Tensor], weights: Sequence[Tensor], biases: Sequence[Tensor | None] | None = None
) -> list[Tensor]:
    """Map each slab by its own weight, or one slab by each of the weights.

    Rows are frozen as in `branch_conv2d`.

    Args:
        slabs: [..., C_s] each, or a single one that all weights share; float64, float32, bfloat16 or float16.
        weights: [outputs of s, C_s] each, of the slabs' dtype (any, under autocast).
        biases: [outputs of s] or None each; or None.

    Returns:
        One tensor [..., outputs of s] a weight.

    Raises:
        ValueError: a wrong feature count, length of a list, device or dtype, or an empty batch.
    """
    slabs, weights, own = branches_of("branch_linear", slabs, weights, biases, None, -1, 2)
    images = [_as_images(slab) for slab in slabs]
    backend = triton_branches.choose_for("branch_linear", images, [_as_taps(own) for own in weights], _ONE_PIXEL)
    return _forward(slabs, weights, own, backend)


def _compute(
    slabs: Sequence[Tensor], weights: Sequence[Tensor], biases: Sequence[Tensor], backend: str
) -> list[Tensor]:
    """The operator; in plain torch, one matrix product a row."""
    seen = slabs if len(slabs) == len(weights) else [slabs[0]] * len(weights)
    if backend == "triton":
        images, taps = [_as_images(slab) for slab in slabs], [_as_taps(weight) for weight in weights]
        results = triton_branches.forward(images, taps, biases, _ONE_PIXEL, linear=True)
        return [result.reshape(*slab.shape[:-1], -1) for result, slab in zip(results, seen, strict=True)]
    return [
        F.linear(slab, weight, biases[row] if biases else None)
        for row, (slab, weight) in enumerate(zip(seen, weights, strict=True))
    ]


def _compute_backward(
    grads: Sequence[Tensor], slabs: Sequence[Tensor], weights: Sequence[Tensor], needed: Sequence[bool], backend: str
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Gradients of slabs, weights and biases of the rows that learn; see `branches.differentiate`."""
    if backend == "triton":
        images, of_results = ([_as_images(own) for own in tensors] for tensors in (slabs, grads))
        taps = [_as_taps(weight) for weight in weights]
        to_slabs, to_weights, to_biases = triton_branches.gradients(
            of_results, images, taps, needed, _ONE_PIXEL, linear=True
        )
        return _shaped(to_slabs, slabs), _shaped(to_weights, weights), to_biases
    shared = len(slabs) < len(weights)
    of_slabs, of_weights, of_biases = [], [], []
    for row, (grad, weight) in enumerate(zip(grads, weights, strict=True)):
        to_slab, to_weight, to_bias = needed[3 * row : 3 * row + 3]
        slab, empty = slabs[0 if shared else row], weight.new_empty
        rows = grad.reshape(-1, len(weight))
        of_slabs.append(grad @ weight if to_slab else empty(0))
        of_weights.append(rows.T @ slab.reshape(-1, slab.shape[-1]) if to_weight else empty(0))
        of_biases.append(rows.sum(0) if to_bias else empty(0))
    return [summed(of_slabs)] if shared else of_slabs, of_weights, of_biases


def _fake_backward(
    grads: Sequence[Tensor], slabs: Sequence[Tensor], weights: Sequence[Tensor], needed: Sequence[bool], backend: str
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    found = _compute_backward(grads, slabs, weights, needed, "torch")
    return found if backend == "torch" else triton_branches.as_written(found, weights)


def _shaped(gradients: Sequence[Tensor], like: Sequence[Tensor]) -> list[Tensor]:
    """Gradients in the shapes of what they belong to; those left out stay empty."""
    return [own.reshape(of.shape) if own.numel() else own for own, of in zip(gradients, like, strict=True)]


def _as_images(slab: Tensor) -> Tensor:
    """A slab [..., C] as [N, C, 1, 1]."""
    return slab.reshape(-1, slab.shape[-1], 1, 1)


def _as_taps(weight: Tensor) -> Tensor:
    """A weight [C_out, C_in] as [C_out, C_in, 1, 1]."""
    return weight[:, :, None, None]


_forward = Operator("branch_linear", _compute, in_plain_torch(_compute))
_backward = Operator("branch_linear_backward", _compute_backward, _fake_backward)
differentiate(_forward, _backward)
