"""All sub-networks' parts of all stored weights, rotated, cast and packed in one go, and the reverse for gradients.

Triton's convolutions have a weight packed where that was measured to be faster than reading it in place. The
convolutions of plain torch don't ask for it: a part that doesn't wrap around is a view, and where one does,
concatenating its stretches took less time than packing (all 3x3 and 1x1 weights of a ResNet-18, widths=4, scroll 1,
float32, one thread of a CPU with AVX2, in turns: 16 ms of processor time against 27 weight by weight and 23 for all of
them at once; 18 against 31 and 91 with the weights channels-last).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from slimkern.ops import native
from slimkern.ops.backends import choose
from slimkern.ops.checks import check_offset
from slimkern.ops.registration import Operator
from slimkern.ops.rotation import rectangles

OPERATOR = "pack_weights"
ALIGNMENT = 8
"""Values that a packed part's start is a multiple of: 16 bytes in the narrowest dtypes."""


class Part(NamedTuple):
    """What one sub-network reads of one weight: its first channels, counted from where the axes start.

    Attributes:
        weight: index of the stored weight.
        rows: output channels.
        columns: input channels.
        out_offset: stored output channel that position 0 is.
        in_offset: stored input channel that position 0 is.
    """

    weight: int
    rows: int
    columns: int
    out_offset: int = 0
    in_offset: int = 0


class _Place(NamedTuple):
    """A part, and where it starts in the flat buffer."""

    weight: int
    rows: int
    columns: int
    out_offset: int
    in_offset: int
    start: int

    def of(self, packed: Tensor, weight: Tensor) -> Tensor:
        """The packed part [rows, columns, ...] as a view of the flat buffer, whose memory is [rows, ..., columns]."""
        shape = (self.rows, *weight.shape[2:], self.columns)
        return packed[self.start : self.start + prod(shape)].view(shape).movedim(-1, 1)

    def rectangles(self, weight: Tensor) -> list[tuple[tuple[slice, slice], tuple[slice, slice]]]:
        """Pairs (positions of the part, channels of the weight)."""
        return rectangles((self.rows, self.columns), (self.out_offset, self.in_offset), weight.shape)


def pack_weights(
    weights: Sequence[Tensor], parts: Sequence[Part | tuple[int, ...]], dtype: torch.dtype | None = None
) -> list[Tensor]:
    """Read the parts that sub-networks use of their weights, in memory as convolutions want it.

    Position (i, j) of a part is channel ((i + out_offset) mod C_out, (j + in_offset) mod C_in) of its weight. The
    gradient of a weight is the sum of its parts' gradients, exactly zero where no part reads.

    Args:
        weights: [C_out, C_in, ...] each, of one floating-point dtype on one device, in any memory layout.
        parts: (weight, rows, columns, out_offset, in_offset) each.
        dtype: of the packed parts; that of the weights by default.

    Returns:
        One tensor [rows, columns, ...] a part, packed channels-last. All are views of one flat buffer, in the order
        of the parts, each starting at a multiple of 16 bytes.

    Raises:
        ValueError: no weights or parts, mixed dtypes or devices, or a part that its weight doesn't hold.
    """
    places = _checked(weights, parts)
    target = weights[0].dtype if dtype is None else dtype
    if not target.is_floating_point:
        raise ValueError(f"{OPERATOR}: dtype={target} must be a floating-point dtype")
    numbers = [number for place in places for number in place]
    packed = _forward(weights, numbers, target, choose(OPERATOR, weights[0].device))
    sizes = [_values(place, weights) for place in places]
    # One split, whose gradient is a concatenation; each slice's would be as large as the whole.
    pieces = packed.split([_aligned(size) for size in sizes])
    return [
        piece[:size].view(place.rows, *weights[place.weight].shape[2:], place.columns).movedim(-1, 1)
        for place, piece, size in zip(places, pieces, sizes, strict=True)
    ]


def flat_of(weights: Sequence[Tensor], parts: Sequence[Part | tuple[int, ...]]) -> Tensor:
    """The flat buffer of `pack_weights` without a gradient, also where no backend was asked for that packs."""
    numbers = [number for place in _checked(weights, parts) for number in place]
    try:
        backend = choose(OPERATOR, weights[0].device)
    except ValueError:
        backend = "torch"
    return _compute(weights, numbers, weights[0].dtype, backend)


def parts_of(flat: Tensor, weights: Sequence[Tensor], parts: Sequence[Part | tuple[int, ...]]) -> list[Tensor]:
    """The parts, as `pack_weights` gives them, of such a buffer."""
    return [place.of(flat, weights[place.weight]) for place in _checked(weights, parts)]


def _values(part: Part | _Place, weights: Sequence[Tensor]) -> int:
    return part.rows * part.columns * prod(weights[part.weight].shape[2:])


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _checked(weights: Sequence[Tensor], parts: Sequence[Part | tuple[int, ...]]) -> list[_Place]:
    if not weights or not parts:
        raise ValueError(f"{OPERATOR}: {len(weights)} weights and {len(parts)} parts; at least one of each is needed")
    first = weights[0]
    for place, weight in enumerate(weights):
        if weight.dim() < 2 or weight.numel() == 0 or not weight.is_floating_point():
            raise ValueError(
                f"{OPERATOR}: weights[{place}] is {weight.dtype} of shape {tuple(weight.shape)}; it must be of a "
                "floating-point dtype, with at least 2 axes, none of them empty"
            )
        if weight.dtype != first.dtype or weight.device != first.device:
            raise ValueError(
                f"{OPERATOR}: weights[{place}] is {weight.dtype} on {weight.device}, weights[0] is {first.dtype} on "
                f"{first.device}; all weights must agree"
            )
    places, start = [], 0
    for number, numbers in enumerate(parts):
        part = Part(*numbers)
        if not 0 <= part.weight < len(weights):
            raise ValueError(f"{OPERATOR}: parts[{number}] is of weight {part.weight}; there are {len(weights)}")
        rows, columns = weights[part.weight].shape[:2]
        if not (0 < part.rows <= rows and 0 < part.columns <= columns):
            raise ValueError(
                f"{OPERATOR}: parts[{number}] has {part.rows} by {part.columns} channels; weights[{part.weight}] gives "
                f"1 by 1 to {rows} by {columns}"
            )
        check_offset(OPERATOR, f"parts[{number}].out_offset", part.out_offset, rows)
        check_offset(OPERATOR, f"parts[{number}].in_offset", part.in_offset, columns)
        places.append(_Place(*part, start))
        start += _aligned(_values(part, weights))
    return places


def _places(numbers: Sequence[int]) -> list[_Place]:
    size = len(_Place._fields)
    return [_Place(*numbers[first : first + size]) for first in range(0, len(numbers), size)]


def _empty(weights: Sequence[Tensor], places: Sequence[_Place], dtype: torch.dtype) -> Tensor:
    """The flat buffer; gaps between the parts are zeros, so that the whole of it is always defined."""
    sizes = [_values(place, weights) for place in places]
    has_gaps = any(size % ALIGNMENT for size in sizes)
    return (weights[0].new_zeros if has_gaps else weights[0].new_empty)(sum(map(_aligned, sizes)), dtype=dtype)


def _compute(weights: Sequence[Tensor], numbers: Sequence[int], dtype: torch.dtype, backend: str) -> Tensor:
    """The operator; with the backend torch, part by part, its specification."""
    places = _places(numbers)
    packed = _empty(weights, places, dtype)
    if backend == "native" and dtype in native.DTYPES and _takes(weights):
        torch.ops.slimkern_native.pack_weights(weights, numbers, packed)
        return packed
    for place in places:
        weight = weights[place.weight]
        part = place.of(packed, weight)
        for positions, channels in place.rectangles(weight):
            part[positions] = weight[channels]
    return packed


def _empty_like(weights: Sequence[Tensor], needed: Sequence[bool]) -> list[Tensor]:
    return [
        torch.empty_like(weight) if wanted else weight.new_empty(0)
        for weight, wanted in zip(weights, needed, strict=True)
    ]


def _compute_backward(
    grad: Tensor, weights: Sequence[Tensor], numbers: Sequence[int], needed: Sequence[bool], backend: str
) -> list[Tensor]:
    """Gradients of the weights, shaped like them; those not `needed` are empty tensors."""
    totals = _empty_like(weights, needed)
    places = [place for place in _places(numbers) if needed[place.weight]]
    if backend == "native" and grad.dtype in native.DTYPES and _takes(weights):
        wanted = [index for index, flag in enumerate(needed) if flag]
        own = [number for place in places for number in place._replace(weight=wanted.index(place.weight))]
        torch.ops.slimkern_native.pack_weights_backward(grad.contiguous(), own, [totals[index] for index in wanted])
        return totals
    for total in totals:
        total.zero_()
    for place in places:
        total = totals[place.weight]
        part = place.of(grad, total)
        for positions, channels in place.rectangles(total):
            total[channels].add_(part[positions])
    return totals


def _takes(weights: Sequence[Tensor]) -> bool:
    """Whether the kernels take these weights: float32, all taps of a channel at even distances in memory."""
    return all(weight.dtype == torch.float32 and _has_even_taps(weight) for weight in weights)


def _has_even_taps(weight: Tensor) -> bool:
    axes = [axis for axis in range(2, weight.dim()) if weight.shape[axis] > 1]
    return all(weight.stride(outer) == weight.stride(inner) * weight.shape[inner] for outer, inner in pairwise(axes))


def _save(ctx: Any, arguments: Sequence[Any], packed: Tensor) -> None:
    weights, ctx.numbers, _, ctx.backend = arguments
    ctx.save_for_backward(*weights)


def _gradients(ctx: Any, grad: Tensor) -> dict[str, Any]:
    return {"weights": _backward(grad, ctx.saved_tensors, ctx.numbers, ctx.wanted["weights"], ctx.backend)}


_forward = Operator(OPERATOR, _compute, lambda weights, numbers, dtype, _: _empty(weights, _places(numbers), dtype))
_backward = Operator(
    f"{OPERATOR}_backward", _compute_backward, lambda grad, weights, numbers, needed, _: _empty_like(weights, needed)
)
_forward.differentiate(_save, _gradients)
