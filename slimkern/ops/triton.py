"""The Triton kernels: what they take, and how they are called for all slabs of a convolution at once.

What is None was measured to be faster in plain torch; whoever calls then goes there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from math import prod
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from slimkern import kernels
from slimkern.kernels.geometry import Geometry, Pair
from slimkern.ops.convolution import Convolution, packed
from slimkern.ops.rotation import at_strides_of

if TYPE_CHECKING:
    from slimkern.kernels.slab_table import SlabTable

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
CHANNELS = 8
"""What channel counts and offsets are multiples of, so that vectors of 16 bytes can be loaded."""

FEW_CHANNELS = 16
"""With fewer input channels than this, a shared input's taps and channels are summed over as one axis."""

MAY_PACK = ("forward", "input gradient")
"""Passes that can read packed weights; a weight's gradient is written in place, and a stem's weight is small."""

LARGEST = 2**31 - 1

_UNAVAILABLE = kernels.why_unavailable()

Result = TypeVar("Result")
Gradients = tuple[list[Tensor], Tensor, Tensor]


def why_unavailable(device: str) -> str | None:
    """Why Triton kernels can't run on a type of device; None if they can."""
    if _UNAVAILABLE:
        return _UNAVAILABLE
    if device == "cuda" or (device == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"):
        return None
    return "Triton kernels are for cuda; under TRITON_INTERPRET=1, Triton's interpreter runs them on a cpu"


def why_not(slabs: Sequence[Tensor], convolution: Convolution, out_channels: Sequence[int]) -> str | None:
    """Why the kernels don't take a call, by shapes and dtypes alone; None if they do."""
    weight = convolution.weight
    if slabs[0].dtype not in DTYPES:
        return f"{slabs[0].dtype} is none of float32, bfloat16 and float16"
    if convolution.groups > 1:
        return f"groups={convolution.groups} must be 1"
    counts = [*out_channels, weight.shape[0], convolution.out_offset]
    if not _few(slabs, out_channels):
        counts += [*(slab.shape[1] for slab in slabs), weight.shape[1], convolution.in_offset]
    for count in counts:
        if count % CHANNELS:
            return f"channel counts and offsets must be multiples of {CHANNELS}, {count} isn't"
    batch, _, *image = slabs[0].shape
    if any([slab.shape[0], *slab.shape[2:]] != [batch, *image] for slab in slabs):
        return "slabs must agree in batch and image"
    result = convolution.output_shape(slabs[0], max(out_channels))
    if min(result) < 1:
        return "the kernel is larger than the image"
    if max(prod(shape) for shape in (result, weight.shape, *(slab.shape for slab in slabs))) > LARGEST:
        return f"a tensor has more than {LARGEST} elements"
    return None


def forward(
    slabs: Sequence[Tensor],
    bias: Tensor | None,
    out_channels: Sequence[int],
    convolution: Convolution,
    linear: bool = False,
) -> list[Tensor] | None:
    """Convolve all slabs in one launch: packed channels-last results [N, out_channels[s], H', W'].

    `linear` says that the convolution stands for a linear layer, and PyTorch's switch for TF32 in those counts.
    """
    from slimkern.kernels import scroll_conv2d, scroll_conv2d_stem

    geometry = _geometry(convolution)
    if _few(slabs, out_channels):

        def launch_stem(weights: list[Tensor], **others: Any) -> tuple[list[Tensor], Any]:
            return scroll_conv2d_stem.forward_shared(slabs[0], weights[0], bias, geometry=geometry, **others)

        found = _run("stem", slabs, out_channels, convolution, linear, launch_stem)
        return None if found is None else found[0]
    ready = [_ready(slab) for slab in slabs]
    launch = partial(scroll_conv2d.forward, ready, biases=None if bias is None else [bias], geometry=geometry)
    computed = out_channels if len(slabs) == len(out_channels) else [max(out_channels)]
    found = _run("forward", ready, computed, convolution, linear, launch)
    if found is None or computed is out_channels:
        return None if found is None else found[0]
    widest = found[0][0]
    return [widest[:, :count].clone(memory_format=torch.channels_last) for count in out_channels]


def gradients(
    grads: Sequence[Tensor],
    slabs: Sequence[Tensor],
    convolution: Convolution,
    needed: Sequence[bool],
    in_torch: Callable[[Sequence[bool]], Gradients],
    linear: bool = False,
) -> Gradients:
    """Gradients of the slabs, the weight (at its strides) and the bias; those not `needed` are empty.

    `grads` are one a slab. `in_torch` gives those that the kernels don't, told which of the three.
    """
    to_slabs, to_weight, to_bias = needed
    of_slabs = _of_slabs(grads, slabs, convolution, linear) if to_slabs else None
    of_parameters = _of_parameters(grads, slabs, convolution, to_bias, linear) if to_weight or to_bias else None
    left = [own and found is None for own, found in zip(needed, (of_slabs, of_parameters, of_parameters), strict=True)]
    empty = slabs[0].new_empty(0)
    found = in_torch(left) if any(left) else ([empty] * len(slabs), empty, empty)
    of_weight, of_bias = of_parameters or found[1:]
    if to_weight:
        of_weight = at_strides_of(convolution.weight, of_weight.reshape(convolution.weight.shape))
    return of_slabs or found[0], of_weight if to_weight else empty, of_bias


def _of_slabs(
    grads: Sequence[Tensor], slabs: Sequence[Tensor], convolution: Convolution, linear: bool
) -> list[Tensor] | None:
    from slimkern.kernels import scroll_conv2d

    if any(slab.shape[1] % CHANNELS for slab in slabs):
        return None
    image = _pair(slabs[0].shape[2:])
    ready = [_ready(grad) for grad in grads]
    launch = partial(scroll_conv2d.input_gradient, ready, geometry=_geometry(convolution), image=image)
    found = _run("input gradient", slabs, [grad.shape[1] for grad in grads], convolution, linear, launch)
    return None if found is None else [own for own in found if own is not None]


def _of_parameters(
    grads: Sequence[Tensor], slabs: Sequence[Tensor], convolution: Convolution, bias: bool, linear: bool
) -> tuple[Tensor, Tensor] | None:
    from slimkern.kernels.scroll_conv2d_weight_gradient import weight_gradient

    ready, seen = [_ready(grad) for grad in grads], [_ready(slab) for slab in slabs]
    biases = [convolution.weight.new_empty(convolution.weight.shape[0])] if bias else None
    launch = partial(weight_gradient, ready, seen, biases=biases, geometry=_geometry(convolution))
    found = _run("weight gradient", seen, [grad.shape[1] for grad in grads], convolution, linear, launch)
    if found is None:
        return None
    (of_weight,), of_biases = found
    return of_weight, of_biases[0] if of_biases else of_weight.new_empty(0)


def _run(
    operation: str,
    slabs: Sequence[Tensor],
    out_channels: Sequence[int],
    convolution: Convolution,
    linear: bool,
    launch: Callable[..., Result],
) -> Result | None:
    """Run a pass the way that was measured to be the fastest; in place where nothing was measured."""
    from slimkern.kernels.launch import precision
    from slimkern.kernels.problem import Problem
    from slimkern.kernels.tuning import tuner

    first = slabs[0]
    products = precision(first.dtype, linear)
    kind = products if first.dtype == torch.float32 else str(first.dtype).removeprefix("torch.")
    inputs = tuple(slab.shape[1] for slab in slabs) * (len(out_channels) // len(slabs))
    image = _pair(first.shape[2:])
    problem = Problem(operation, kind, first.shape[0], image, inputs, tuple(out_channels), _geometry(convolution))
    way = tuner(first.device).fastest(problem) or "in place"
    if way == "torch":
        return None
    if operation not in MAY_PACK:
        way = "in place"
    weights, table = (_packed if way == "packed" else _in_place)(convolution, inputs[: len(slabs)], problem.outputs)
    with torch.cuda.device_of(first):
        return tuner(first.device).run(
            problem, way, lambda own: launch(weights=weights, table=table, configuration=own, products=products)
        )


def _in_place(
    convolution: Convolution, inputs: tuple[int, ...], outputs: tuple[int, ...]
) -> tuple[list[Tensor], SlabTable]:
    weight = _aligned(convolution.weight)
    offsets = convolution.out_offset, convolution.in_offset
    return [weight], _nested(tuple(weight.shape), weight.stride(), inputs, outputs, *offsets)


def _packed(
    convolution: Convolution, inputs: tuple[int, ...], outputs: tuple[int, ...]
) -> tuple[list[Tensor], SlabTable]:
    from slimkern.kernels import slab_table
    from slimkern.ops.pack_weights import pack_weights

    weight, offset = convolution.weight, convolution.out_offset
    sizes = zip(outputs, inputs, strict=True)
    parts = pack_weights([weight], [(0, *size, offset, convolution.in_offset) for size in sizes])
    storage = parts[0].untyped_storage()
    whole = parts[0].as_strided((storage.nbytes() // parts[0].element_size(),), (1,), 0)
    return [whole], slab_table.packed(parts, inputs, weight.shape[0], offset)


@lru_cache(4096)
def _nested(
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    inputs: tuple[int, ...],
    outputs: tuple[int, ...],
    out_offset: int,
    in_offset: int,
) -> SlabTable:
    from slimkern.kernels import slab_table

    weight = torch.empty_strided(shape, strides, device="meta")
    return slab_table.nested(weight, inputs, outputs, out_offset, in_offset)


def _few(slabs: Sequence[Tensor], out_channels: Sequence[int]) -> bool:
    """Whether sub-networks share an input of few channels, or one alone has an odd number of them."""
    channels = slabs[0].shape[1]
    return len(slabs) == 1 and channels < FEW_CHANNELS and (len(out_channels) > 1 or channels % CHANNELS > 0)


def _geometry(convolution: Convolution) -> Geometry:
    return Geometry(*(_pair(own) for own in (convolution.weight.shape[2:], *convolution[3:6])))


def _pair(numbers: Sequence[int]) -> Pair:
    height, width = numbers
    return height, width


def _ready(slab: Tensor) -> Tensor:
    """The slab in packed memory that vectors and boxes can be loaded from."""
    return _aligned(packed(slab))


def _aligned(tensor: Tensor) -> Tensor:
    return tensor if tensor.data_ptr() % 16 == 0 else tensor.clone()
