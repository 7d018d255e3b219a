"""Batch norms by stretches of flat parameters, and their gradients: in plain torch, or by the compiled kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from slimkern.ops import native
from slimkern.ops.checks import check_weight


class BatchNorm(NamedTuple):
    """Flat vectors [P] of all widths' channels; running statistics are None where the batch's count."""

    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None
    eps: float

    def apply_all(
        self,
        slabs: Sequence[Tensor],
        offsets: Sequence[int],
        residuals: Sequence[Tensor],
        relu: bool,
        backend: str,
        moments: Tensor | None = None,
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """Normalise slabs, add the residuals (one a slab, or none), apply the ReLU; `backend` as `serving` gives it.

        Returns:
            The results; the means and the biased variances that the slabs were normalised by, one after the other.
        """
        if backend == "native":
            return native.batch_norm_forward(slabs, *self[:2], offsets, *self[2:], residuals, relu, moments)
        nothing = [None] * len(slabs)
        sizes = [slab.shape[1] for slab in slabs]
        known = nothing if moments is None else merged(moments).split(sizes, dim=1)
        rows = zip(slabs, offsets, residuals or nothing, known, strict=True)
        results, means, variances = zip(*(self.apply(*row, relu) for row in rows), strict=True)
        return list(results), torch.cat(means), torch.cat(variances)

    def apply(
        self, slab: Tensor, offset: int, residual: Tensor | None, known: Tensor | None, relu: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Normalise a slab, add the residual, apply the ReLU.

        Args:
            slab: [N, C_s, ...].
            offset: where its channels start in the flat vectors.
            residual: of the slab's shape, or None.
            known: mean and biased variance [2, C_s] of the slab, where they needn't be taken again.
            relu: whether to clamp the result at zero.

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
        elif known is not None:
            mean, variance = known.unbind()
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
    """Gradients of batch norms, those of the parameters summed up in flat vectors [P].

    Args:
        norm: what the slabs were normalised by; of its running statistics only the presence counts.
        mean: the new vectors are of its dtype and on its device.
        relu: whether a ReLU followed.
        needed: whether gradients of the slabs, the scale and the shift are.
        backend: native, where it takes the tensors at hand, or torch.
    """

    def __init__(
        self,
        norm: BatchNorm,
        mean: Tensor,
        relu: bool,
        needed: Sequence[bool],
        backend: str,
    ) -> None:
        self._norm, self._relu, self._needed, self._backend = norm, relu, list(needed), backend
        own = norm.bias if norm.weight is None else norm.weight
        self.of_weight, self.of_bias = mean.new_zeros(2, 0 if own is None else own.shape[0]).unbind()

    def backward_all(
        self,
        grads: Sequence[Tensor],
        slabs: Sequence[Tensor],
        results: Sequence[Tensor],
        offsets: Sequence[int],
        mean: Tensor,
        variance: Tensor,
        residual: bool,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The gradients of the slabs, if needed, and of what went into the ReLU, if a residual did.

        Args:
            grads: of the forward pass's results.
            slabs: what was normalised.
            results: of the forward pass; empty without a ReLU.
            offsets: where the slabs' parameters start.
            mean: that they were normalised by, one slab after the other.
            variance: likewise.
            residual: whether one was added.
        """
        norm = self._norm
        if self._backend == "native":
            return native.batch_norm_backward(
                grads, slabs, results if residual else [], *norm[:2], offsets, mean, variance,
                norm.running_mean is None, norm.eps, self._relu, self._needed[0],
                self.of_weight if self._needed[1] else None, self.of_bias if self._needed[2] else None,
            )  # fmt: skip
        if self._relu:
            pairs = zip(grads, results, strict=True)
            grads = [torch.ops.aten.threshold_backward(grad, result, 0) for grad, result in pairs]
        sizes = [slab.shape[1] for slab in slabs]
        rows = zip(grads, slabs, offsets, mean.split(sizes), variance.split(sizes), strict=True)
        of_slabs = [self._backward(*row) for row in rows]
        return of_slabs if self._needed[0] else [], list(grads) if self._relu and residual else []

    def _backward(self, grad: Tensor, slab: Tensor, offset: int, mean: Tensor, variance: Tensor) -> Tensor:
        own = slice(offset, offset + slab.shape[1])
        to_slab, to_weight, to_bias = torch.ops.aten.native_batch_norm_backward(
            grad, slab, _at(self._norm.weight, own, mean.dtype), mean, variance, mean,
            torch.rsqrt(variance + self._norm.eps),
            self._norm.running_mean is None, self._norm.eps, self._needed,
        )  # fmt: skip
        if self._needed[1]:
            self.of_weight[own] = to_weight
        if self._needed[2]:
            self.of_bias[own] = to_bias
        return to_slab


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
    for name, vector in zip(BatchNorm._fields[:4], norm[:4], strict=True):
        if vector is None:
            continue
        check_weight(operator, name, vector, like, any_dtype=True)
        entries = vector.shape[0]
        for shape, offset in zip(shapes, offsets, strict=True):
            if not 0 <= offset <= entries - shape[1]:
                raise ValueError(
                    f"{operator}: {name} has {entries} entries; {shape[1]} channels do not fit at {offset}"
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


def check_moments(operator: str, moments: Tensor, slabs: Sequence[Tensor], norm: BatchNorm) -> None:
    """Refuse moments that aren't those of parts of these slabs.

    Raises:
        ValueError: a wrong device, dtype or shape, or running statistics besides.
    """
    dtype, channels = _statistics_dtype(slabs[0]), sum(slab.shape[1] for slab in slabs)
    shape = tuple(moments.shape)
    if moments.dim() != 3 or 0 in shape or (shape[0], shape[2]) != (3, channels):
        raise ValueError(f"{operator}: moments have shape {shape}; it must be (3, tiles, {channels})")
    if moments.dtype != dtype or moments.device != slabs[0].device:
        raise ValueError(
            f"{operator}: moments are {moments.dtype} on {moments.device}; for such slabs they must be {dtype} on "
            f"{slabs[0].device}"
        )
    if norm.running_mean is not None:
        raise ValueError(f"{operator}: give moments or running statistics, not both")


def merged(moments: Tensor) -> Tensor:
    """Mean and biased variance [2, C] of the whole from counts, means and squared deviations [3, tiles, C] of parts.

    Squares are taken around means alone, so that nothing cancels (Chan, Golub & LeVeque 1979).
    """
    counts, means, squares = moments.double().unbind()
    count = counts.sum(0)
    mean = (counts * means).sum(0) / count
    variance = (squares + counts * (means - mean).square()).sum(0) / count
    return torch.stack([mean, variance]).to(moments.dtype)


def serving(
    backend: str, slabs: Sequence[Tensor], vectors: Sequence[Tensor | None], like_slabs: Sequence[Tensor]
) -> str:
    """The backend if it takes these packed slabs, these vectors, and these tensors of the slabs' dtype; else torch."""
    return backend if native.takes_batch_norm(slabs, vectors, like_slabs) else "torch"


def in_plain_torch(operator: Callable[..., Any], backends: int = 1) -> Callable[..., Any]:
    """An operator whose last arguments are its backends, always served by torch: what fake tensors go through."""
    return lambda *arguments: operator(*arguments[:-backends], *["torch"] * backends)


def _at(vector: Tensor | None, own: slice, dtype: torch.dtype) -> Tensor | None:
    return None if vector is None else vector[own].to(dtype)


def _statistics_dtype(slab: Tensor) -> torch.dtype:
    """Half precision is too coarse for statistics: a variance may not even fit."""
    return torch.float64 if slab.dtype == torch.float64 else torch.float32
