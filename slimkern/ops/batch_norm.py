"""The batch norm of one slab by its own stretch of flat parameters, and its gradients, in plain torch."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from slimkern.ops.checks import check_weight


class BatchNorm(NamedTuple):
    """Flat vectors [P] of all widths' channels; running statistics are None where the batch's count."""

    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None
    eps: float

    def apply(self, slab: Tensor, offset: int, residual: Tensor | None, relu: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Normalise a slab, add the residual, apply the ReLU.

        Returns:
            The result; the mean [C_s] and the biased variance [C_s] that the slab was normalised by, in float64 for
            float64 slabs and else in float32.
        """
        own = slice(offset, offset + slab.shape[1])
        dtype = _statistics_dtype(slab)
        weight, bias = _at(self.weight, own, dtype), _at(self.bias, own, dtype)
        if self.running_mean is not None and self.running_var is not None:
            mean, variance = (vector[own].to(dtype, copy=True) for vector in (self.running_mean, self.running_var))
            result = F.batch_norm(slab, mean, variance, weight, bias, False, 0.0, self.eps)
        else:
            # Momentum 1 turns the running statistics into the batch's own, with the unbiased variance.
            mean, variance = slab.new_zeros(2, slab.shape[1], dtype=dtype).unbind()
            result = F.batch_norm(slab, mean, variance, weight, bias, True, 1.0, self.eps)
            count = slab.numel() // slab.shape[1]
            variance = variance * ((count - 1) / count)
        if residual is not None:
            result += residual
        return (result.relu_() if relu else result), mean, variance


class BatchNormGradient:
    """Gradients of batch norms, slab by slab, summed up in flat vectors [P]."""

    def __init__(
        self,
        weight: Tensor | None,
        parameters: int,
        mean: Tensor,
        variance: Tensor,
        batch_statistics: bool,
        eps: float,
        needed: Sequence[bool],
    ) -> None:
        self._weight, self._batch_statistics, self._eps, self._needed = weight, batch_statistics, eps, list(needed)
        self._mean, self._variance, self._inverse = mean, variance, torch.rsqrt(variance + eps)
        self.of_weight, self.of_bias = mean.new_zeros(parameters), mean.new_zeros(parameters)

    def backward(self, grad: Tensor, slab: Tensor, offset: int, start: int) -> Tensor:
        """The slab's gradient (empty if not needed).

        Args:
            grad: of the normalised slab.
            slab: what was normalised.
            offset: where its parameters start.
            start: where its mean and variance start.
        """
        own, here = slice(offset, offset + slab.shape[1]), slice(start, start + slab.shape[1])
        mean = self._mean[here]
        to_slab, to_weight, to_bias = torch.ops.aten.native_batch_norm_backward(
            grad, slab, _at(self._weight, own, mean.dtype), mean, self._variance[here], mean, self._inverse[here],
            self._batch_statistics, self._eps, self._needed,
        )  # fmt: skip
        if self._needed[1]:
            self.of_weight[own] = to_weight
        if self._needed[2]:
            self.of_bias[own] = to_bias
        return to_slab if self._needed[0] else slab.new_empty(0)


def check_batch_norm(
    operator: str,
    like: Tensor,
    shapes: Sequence[Sequence[int]],
    norm: BatchNorm,
    offsets: Sequence[int],
    residuals: Sequence[Tensor],
) -> None:
    """Refuse what slabs of these shapes, on the device of `like`, can't be normalised by.

    Raises:
        ValueError: a wrong device, shape or length, or one value a channel where the batch's statistics count.
    """
    for name, vector in norm._asdict().items():
        if not isinstance(vector, Tensor):
            continue
        check_weight(operator, name, vector, like, any_dtype=True)
        for shape, offset in zip(shapes, offsets, strict=True):
            if not 0 <= offset <= vector.shape[0] - shape[1]:
                raise ValueError(
                    f"{operator}: {name} has {vector.shape[0]} entries; {shape[1]} channels do not fit at {offset}"
                )
    if (norm.running_mean is None) != (norm.running_var is None):
        raise ValueError(f"{operator}: give running_mean and running_var both, or neither")
    if norm.running_mean is None and prod(shapes[0]) == shapes[0][1]:
        raise ValueError(
            f"{operator}: a batch of shape {tuple(shapes[0])} has one value a channel, so no variance; the batch's "
            "statistics need at least two"
        )
    if residuals and [tuple(residual.shape) for residual in residuals] != [tuple(shape) for shape in shapes]:
        raise ValueError(
            f"{operator}: residuals of shapes {[tuple(residual.shape) for residual in residuals]} must match "
            f"{[tuple(shape) for shape in shapes]}"
        )


def _at(vector: Tensor | None, own: slice, dtype: torch.dtype) -> Tensor | None:
    return None if vector is None else vector[own].to(dtype)


def _statistics_dtype(slab: Tensor) -> torch.dtype:
    """Half precision is too coarse for statistics: a variance may not even fit."""
    return torch.float64 if slab.dtype == torch.float64 else torch.float32
