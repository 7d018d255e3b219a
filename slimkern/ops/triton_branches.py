"""The Triton kernels of `slimkern.kernels`, called for rows with weights of their own: one launch for all of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from slimkern.kernels.configurations import IN_PLACE
from slimkern.kernels.geometry import Geometry
from slimkern.ops.backends import choose
from slimkern.ops.convolution import Convolution
from slimkern.ops.rotation import at_strides_of
from slimkern.ops.triton import CHANNELS, DTYPES, LARGEST, loadable, pair, problem_of, run

if TYPE_CHECKING:
    from slimkern.kernels.slab_table import SlabTable

Moves = tuple[Sequence[int], Sequence[int], Sequence[int]]
"""Stride, padding and dilation, height then width."""
Gradients = tuple[list[Tensor], list[Tensor], list[Tensor]]


def choose_for(operator: str, slabs: Sequence[Tensor], weights: Sequence[Tensor], moves: Moves) -> str:
    """The backend of a call; torch, with a warning, where Triton was asked for and doesn't take it.

    Args:
        operator: its name.
        slabs: [N, C_s, H, W] each.
        weights: [outputs of s, C_s, kernel height, kernel width] each.
        moves: how kernels move over images.
    """
    backend = choose(operator, slabs[0].device)
    reason = why_not(slabs, weights, moves) if backend == "triton" else None
    if reason is None:
        return backend
    if not torch.compiler.is_compiling():
        warnings.warn(f"{operator}: torch serves a call that Triton doesn't take: {reason}", stacklevel=3)
    return "torch"


def why_not(slabs: Sequence[Tensor], weights: Sequence[Tensor], moves: Moves) -> str | None:
    """Why the kernels don't take a call, by shapes and dtypes alone; None if they do."""
    if slabs[0].dtype not in DTYPES:
        return f"{slabs[0].dtype} is none of float32, bfloat16 and float16"
    batch, _, *image = slabs[0].shape
    if any([slab.shape[0], *slab.shape[2:]] != [batch, *image] for slab in slabs):
        return "slabs must agree in batch and image"
    if any(weight.shape[2:] != weights[0].shape[2:] for weight in weights):
        return "kernels must agree in height and width"
    for count in (count for weight in weights for count in weight.shape[:2]):
        if count % CHANNELS:
            return f"channel counts must be multiples of {CHANNELS}, {count} isn't"
    sides = _geometry(weights[0], moves).result(pair(image))
    if min(sides) < 1:
        return "the kernel is larger than the image"
    sizes = [*slabs, *weights]
    if max(*(own.numel() for own in sizes), *(batch * len(weight) * prod(sides) for weight in weights)) > LARGEST:
        return f"a tensor has more than {LARGEST} elements"
    return None


def forward(
    slabs: Sequence[Tensor], weights: Sequence[Tensor], biases: Sequence[Tensor], moves: Moves, linear: bool = False
) -> list[Tensor]:
    """Convolve all rows in one launch: packed channels-last results [N, outputs of s, H', W'].

    `linear` says that the convolution stands for a linear map, and PyTorch's switch for TF32 in those counts.
    """
    from slimkern.kernels import scroll_conv2d

    ready, own = [loadable(slab) for slab in slabs], [loadable(weight) for weight in weights]
    launch = partial(scroll_conv2d.forward, ready, own, list(biases) or None, geometry=_geometry(own[0], moves))
    return _run("forward", slabs[0], _table(own, len(slabs)), own, moves, linear, launch)[0]


def gradients(
    grads: Sequence[Tensor],
    slabs: Sequence[Tensor],
    weights: Sequence[Tensor],
    needed: Sequence[bool],
    moves: Moves,
    linear: bool = False,
) -> Gradients:
    """Gradients of slabs, weights (at their strides) and biases; those not `needed`, three flags a row, are empty."""
    from slimkern.kernels import scroll_conv2d
    from slimkern.kernels.scroll_conv2d_weight_gradient import weight_gradient
    from slimkern.kernels.slab_table import frozen

    shared = len(slabs) < len(weights)
    seen, given, own = ([loadable(tensor) for tensor in tensors] for tensors in (slabs, grads, weights))
    to_slab, to_weight, to_bias = (needed[start::3] for start in range(3))
    empty = slabs[0].new_empty
    of_slabs = [empty(0) for _ in slabs]
    if any(to_slab):
        table = frozen(_table(own, len(slabs)), [row for row, wanted in enumerate(to_slab) if not wanted])
        launch = partial(
            scroll_conv2d.input_gradient, given, own, geometry=_geometry(own[0], moves), image=pair(slabs[0].shape[2:])
        )
        found = _run("input gradient", slabs[0], table, own, moves, linear, launch)
        by_row = [empty(0) if gradient is None else gradient for gradient in found]
        of_slabs = [torch.stack(by_row).sum(0)] if shared else by_row
    of_weights, of_biases = [empty(0) for _ in weights], [empty(0) for _ in weights]
    learning = [row for row in range(len(weights)) if to_weight[row] or to_bias[row]]
    if learning:
        part = [own[row] for row in learning]
        sources = seen if shared else [seen[row] for row in learning]
        vectors = [part[0].new_empty(len(weight)) for weight in part] if any(to_bias) else None
        launch = partial(
            weight_gradient, [given[row] for row in learning], sources, part, vectors, geometry=_geometry(own[0], moves)
        )
        found = _run("weight gradient", slabs[0], _table(part, len(sources)), part, moves, linear, launch)
        for place, row in enumerate(learning):
            if to_weight[row]:
                of_weights[row] = at_strides_of(weights[row], found[0][place])
            if to_bias[row]:
                of_biases[row] = found[1][place]
    return of_slabs, of_weights, of_biases


def as_written(found: Gradients, weights: Sequence[Tensor]) -> Gradients:
    """Plain torch's gradients at the strides that these kernels give."""
    of_slabs, of_weights, of_biases = found
    return of_slabs, [at_strides_of(own, given) for own, given in zip(weights, of_weights, strict=True)], of_biases


def _run(
    operation: str,
    slab: Tensor,
    table: SlabTable,
    weights: Sequence[Tensor],
    moves: Moves,
    linear: bool,
    launch: Callable[..., Any],
) -> Any:
    inputs, outputs = [row.inputs for row in table], [row.outputs for row in table]
    problem = problem_of(operation, slab, inputs, outputs, Convolution(weights[0], 0, 0, *moves, 1), linear)
    return run(
        problem,
        slab,
        {IN_PLACE: lambda own: launch(table=table, configuration=own, products=problem.products)},
    )


def _table(weights: Sequence[Tensor], slabs: int) -> SlabTable:
    return _private(tuple((tuple(weight.shape), weight.stride()) for weight in weights), slabs)


@lru_cache(4096)
def _private(places: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...], slabs: int) -> SlabTable:
    from slimkern.kernels import slab_table

    weights = [torch.empty_strided(shape, strides, device="meta") for shape, strides in places]
    return slab_table.private(weights, [weight.shape[1] for weight in weights][:slabs])


def _geometry(weight: Tensor, moves: Moves) -> Geometry:
    return Geometry(pair(weight.shape[2:]), *(pair(own) for own in moves))
