"""Convolutions by 3x3 taps with fewer multiplications, on a CPU and without a gradient: Winograd's F(2x2, 3x3).

Each 2x2 results are computed from 16 products instead of 36 (Lavin & Gray 2016, "Fast Algorithms for Convolutional
Neural Networks"). Compiled kernels transform the images and the products; the products themselves are PyTorch's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from slimkern.ops import native
from slimkern.ops.convolution import packed

_WORTH_IT = 64
"""Channels from which on fewer multiplications make up for the transforms."""

_OF_WEIGHTS = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))


def pays(weight: Tensor, stride: Sequence[int], padding: str | Sequence[int], dilation: Sequence[int]) -> bool:
    """Whether a convolution by a weight [C_out, C_in, ...] without groups is of the kind, on a CPU, and gains by it."""
    return (
        weight.shape[2:] == (3, 3)
        and min(weight.shape[:2]) >= _WORTH_IT
        and tuple(stride) == (1, 1)
        and tuple(padding) == (1, 1)
        and tuple(dilation) == (1, 1)
        and weight.dtype == torch.float32
        and weight.device.type == "cpu"
        and native.why_unavailable("cpu") is None
    )


def transformed(weight: Tensor) -> Tensor:
    """A weight [C_out, C_in, 3, 3] as the 16 factors [16, C_in, C_out] of the products."""
    matrix = torch.tensor(_OF_WEIGHTS, dtype=torch.float64)
    factors = torch.einsum("yr,oirc,xc->yxio", matrix, weight.double(), matrix)
    return factors.to(weight.dtype).reshape(16, weight.shape[1], weight.shape[0]).contiguous()


def convolved_and_rectified(images: Tensor, factors: Tensor, bias: Tensor, added: Tensor | None = None) -> Tensor:
    """max(convolution + bias + added, 0).

    Args:
        images: float32 [N, C_in, H, W], on a CPU.
        factors: of the weight, as `transformed` gives them.
        bias: [C_out].
        added: [N, C_out, H, W], or None.

    Returns:
        [N, C_out, H, W], channels-last. A NaN stays one.
    """
    count, _, height, width = images.shape
    spread = torch.ops.slimkern_native.winograd_scatter(packed(images))
    products = torch.bmm(spread, factors)
    summand = None if added is None else packed(added)
    return torch.ops.slimkern_native.winograd_gather(products, bias, summand, count, height, width)
