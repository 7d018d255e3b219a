"""Convolution of every slab by a weight of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from slimkern.ops import triton_branches
from slimkern.ops.batch_norm import in_plain_torch
from slimkern.ops.branches import branches_of, differentiate, summed
from slimkern.ops.convolution import Convolution, packed
from slimkern.ops.registration import Operator
from slimkern.ops.rotation import Gradient


def branch_conv2d(
    slabs: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None] | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
) -> list[Tensor]:
    """Convolve each slab by its own weight, or one slab by each of the weights.

    A row whose slab, weight and bias require no gradient is frozen: its result requires none, and it costs the backward
    pass nothing, whatever the other rows do.

    Args:
        slabs: [N, C_s, H, W] each, or a single one that all weights share; float64, float32, bfloat16 or float16.
        weights: [outputs of s, C_s, kernel height, kernel width] each, kernels of any size, of the slabs' dtype (any,
            under autocast).
        biases: [outputs of s] or None each; or None.
        stride: as in `torch.nn.functional.conv2d`, height then width; likewise `padding` and `dilation`.
        padding: zeros on both sides.
        dilation: distance of the kernel's taps.

    Returns:
        One packed channels-last tensor [N, outputs of s, H', W'] a weight.

    Raises:
        ValueError: a wrong rank, channel count, length of a list, device or dtype, or an empty batch.
    """
    slabs, weights, own = branches_of("branch_conv2d", slabs, weights, biases, 4, 1, 4)
    backend = triton_branches.choose_for("branch_conv2d", slabs, weights, (stride, padding, dilation))
    return _forward(slabs, weights, own, stride, padding, dilation, backend)


def _compute(
    slabs: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    backend: str,
) -> list[Tensor]:
    """The operator; in plain torch, one convolution a row."""
    if backend == "triton":
        return triton_branches.forward(slabs, weights, biases, (stride, padding, dilation))
    seen = slabs if len(slabs) == len(weights) else [slabs[0]] * len(weights)
    return [
        packed(F.conv2d(packed(slab), weight, biases[row] if biases else None, stride, padding, dilation))
        for row, (slab, weight) in enumerate(zip(seen, weights, strict=True))
    ]


def _compute_backward(
    grads: Sequence[Tensor],
    slabs: Sequence[Tensor],
    weights: Sequence[Tensor],
    needed: Sequence[bool],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    backend: str,
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Gradients of slabs, weights and biases of the rows that learn; see `branches.differentiate`."""
    if backend == "triton":
        return triton_branches.gradients(grads, slabs, weights, needed, (stride, padding, dilation))
    shared = len(slabs) < len(weights)
    of_slabs, of_weights, of_biases = [], [], []
    for row, (grad, weight) in enumerate(zip(grads, weights, strict=True)):
        own = needed[3 * row : 3 * row + 3]
        of_weight, of_bias = Gradient(weight), Gradient(weight.new_empty(len(weight), 1))
        convolution = _convolution(weight, stride, padding, dilation)
        of_slabs.append(convolution.backward(grad, slabs[0 if shared else row], own, of_weight, of_bias))
        of_weights.append(of_weight.total(own[1]))
        of_biases.append(of_bias.total(own[2]).flatten())
    return [summed(of_slabs)] if shared else of_slabs, of_weights, of_biases


def _fake_backward(
    grads: Sequence[Tensor],
    slabs: Sequence[Tensor],
    weights: Sequence[Tensor],
    needed: Sequence[bool],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    backend: str,
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    found = _compute_backward(grads, slabs, weights, needed, stride, padding, dilation, "torch")
    return found if backend == "torch" else triton_branches.as_written(found, weights)


def _convolution(weight: Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]) -> Convolution:
    return Convolution(weight, 0, 0, stride, padding, dilation, 1)


_forward = Operator("branch_conv2d", _compute, in_plain_torch(_compute))
_backward = Operator("branch_conv2d_backward", _compute_backward, _fake_backward)
differentiate(_forward, _backward)
