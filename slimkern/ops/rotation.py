"""Reading and writing a sub-network's part of a stored weight, whose first two axes are rotated.

Position (i, j) of the part is channel ((i + row) mod rows, (j + column) mod columns) of the weight: at most two
stretches an axis, four rectangles in all. The stored weight itself is never rolled.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from slimkern.widths import pieces

Corner = tuple[int, int]


def rectangles(
    size: Corner, offset: Corner, shape: Sequence[int]
) -> list[tuple[tuple[slice, slice], tuple[slice, slice]]]:
    """Pairs (positions, channels) of index pairs that map a part of `size` onto a weight of `shape`."""
    return [
        ((rows, columns), (stored_rows, stored_columns))
        for rows, stored_rows in pieces(offset[0], size[0], shape[0])
        for columns, stored_columns in pieces(offset[1], size[1], shape[1])
    ]


def read(weight: Tensor, size: Corner, offset: Corner) -> Tensor:
    """The part of `weight` [rows, columns, ...] that starts at `offset`: a view of one rectangle, or several packed."""
    if offset == (0, 0):
        return weight if size == weight.shape[:2] else weight[: size[0], : size[1]]
    parts = rectangles(size, offset, weight.shape)
    if len(parts) == 1:
        return weight[parts[0][1]]
    packed = torch.empty_like(weight[: size[0], : size[1]])
    for positions, channels in parts:
        packed[positions] = weight[channels]
    return packed


class Gradient:
    """The gradient of a stored weight, summed from its sub-networks' parts at the places that they were read from."""

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight
        self._total: Tensor | None = None

    def add(self, part: Tensor, offset: Corner) -> None:
        """Add a sub-network's gradient; adding the widest one first saves a pass over memory."""
        size = (part.shape[0], part.shape[1])
        if offset == (0, 0) and self._total is not None:
            self._total[: size[0], : size[1]].add_(part)
            return
        whole = size == tuple(self._weight.shape[:2])
        parts = rectangles(size, offset, self._weight.shape)
        if self._total is None:
            if whole and len(parts) == 1:
                self._total = part
                return
            self._total = torch.empty_like(self._weight) if whole else torch.zeros_like(self._weight)
            for positions, channels in parts:
                self._total[channels] = part[positions]
            return
        for positions, channels in parts:
            self._total[channels].add_(part[positions])

    def total(self, needed: bool = True) -> Tensor:
        """The sum, shaped like the weight, with exact zeros where no sub-network reads; empty if not needed."""
        if not needed:
            return self._weight.new_empty(0)
        return torch.zeros_like(self._weight) if self._total is None else self._total


def read_bias(bias: Tensor, size: int, offset: int) -> Tensor:
    """As `read`, for the single axis of a bias."""
    return read(bias[:, None], (size, 1), (offset, 0))[:, 0]


def sum_of_prefixes(grads: Sequence[Tensor], axis: int) -> Tensor:
    """Gradient of a tensor of which each sub-network saw the first channels of `axis`, the widest one all of them."""
    widest, *others = sorted(grads, key=lambda grad: grad.shape[axis], reverse=True)
    total = widest.clone()
    for grad in others:
        total.narrow(axis, 0, grad.shape[axis]).add_(grad)
    return total


def at_strides_of(weight: Tensor, gradient: Tensor) -> Tensor:
    """The gradient where kernels write it: at the weight's strides. An empty one stays as it is."""
    if gradient.numel() == 0 or gradient.stride() == weight.stride():
        return gradient
    return torch.empty_strided(weight.shape, weight.stride(), dtype=weight.dtype, device=weight.device).copy_(gradient)
