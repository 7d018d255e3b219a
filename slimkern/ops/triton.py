"""The Triton kernels: what they take, and how they are called for all slabs of a convolution at once.

Where plain torch was measured to be faster, it serves.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from math import prod
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from slimkern import kernels
from slimkern.kernels.configurations import IN_PLACE, PACKED, TORCH
from slimkern.kernels.geometry import Geometry, Pair
from slimkern.ops.convolution import Convolution, packed
from slimkern.ops.rotation import at_strides_of

if TYPE_CHECKING:
    from slimkern.kernels.problem import Problem
    from slimkern.kernels.slab_table import SlabTable

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
CHANNELS = 8
"""What channel counts and offsets are multiples of, so that vectors of 16 bytes can be loaded."""

FEW_CHANNELS = 16
"""With fewer input channels than this, a shared input's taps and channels are summed over as one axis."""

LARGEST = 2**31 - 1

_UNAVAILABLE = kernels.why_unavailable()

Result = TypeVar("Result")
Gradients = tuple[list[Tensor], Tensor, Tensor]
GradientsByWay = Mapping[str, Callable[[Sequence[bool]], Gradients]]
"""Ways to get those of the gradients of slabs, weight and bias that are needed, by the names the tuner has for them."""

Noted = tuple[list[Tensor], Tensor | None]
"""Results, and their moments where a kernel noted them."""

Reader = Callable[..., tuple[list[Tensor], "SlabTable"]]
"""Gives the weights that a launch reads, and its table, for a convolution and the slabs' channels."""

_KEPT = "_packed_weight"


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
    (result,) = convolution.output_shapes(slabs[:1], [max(out_channels)])
    if min(result) < 1:
        return "the kernel is larger than the image"
    if max(prod(result), *map(_span, (weight, *slabs))) > LARGEST:
        return f"a tensor spans more than {LARGEST} elements"
    return None


def _span(tensor: Tensor) -> int:
    """Elements from a tensor's first to its last one in memory."""
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def forward(
    slabs: Sequence[Tensor],
    bias: Tensor | None,
    out_channels: Sequence[int],
    convolution: Convolution,
    in_torch: Mapping[str, Callable[[], list[Tensor]]],
    linear: bool = False,
    moments: bool = False,
) -> tuple[list[Tensor], Tensor | None]:
    """Convolve all slabs in one launch: packed channels-last results [N, out_channels[s], H', W'].

    `in_torch` are the ways to compute the same in plain torch; one serves where it was measured to be the fastest.
    `linear` says that the convolution stands for a linear layer, and PyTorch's switch for TF32 in those counts.
    `moments` asks for those of the results, as `switchable_batch_norm` takes them; None comes where no kernel noted
    them.
    """
    from slimkern.kernels import scroll_conv2d, scroll_conv2d_stem

    first = slabs[0]
    without_moments = {way: lambda _, own=own: (own(), None) for way, own in in_torch.items()}
    if _few(slabs, out_channels):
        asked = problem_of("stem", first, [first.shape[1]] * len(out_channels), out_channels, convolution, linear)

        def launch_stem(own: Any) -> Noted:
            (weight,), table = _in_place(convolution, asked.inputs[:1], asked.outputs)
            return scroll_conv2d_stem.forward_shared(
                first, weight, bias, table, asked.geometry, own, moments, asked.products
            )

        return run(asked, first, {IN_PLACE: launch_stem} | without_moments)

    ready = [loadable(slab) for slab in slabs]
    is_shared = len(slabs) < len(out_channels)
    outputs = [max(out_channels)] if is_shared else out_channels
    asked = problem_of("forward", first, [slab.shape[1] for slab in slabs], outputs, convolution, linear)

    def launch(read: Reader, own: Any) -> Noted:
        weights, table = read(convolution, asked.inputs, asked.outputs)
        biases = None if bias is None else [bias]
        results, noted = scroll_conv2d.forward(
            ready, weights, biases, table, asked.geometry, own, moments and not is_shared, asked.products
        )
        if is_shared:
            results = _cut(results[0], out_channels)
        if read is _packed and first.requires_grad:
            setattr(results[0], _KEPT, weights[0])
        return results, noted

    launches = {IN_PLACE: partial(launch, _in_place), PACKED: partial(launch, _packed)}
    return run(asked, first, launches | without_moments)


def kept_weight(results: Sequence[Tensor]) -> list[Tensor]:
    """The packed weight that `forward` read, to be handed to `gradients`: at most one tensor, and only once."""
    kept = vars(results[0]).pop(_KEPT, None)
    return [] if kept is None else [kept]


def gradients(
    grads: Sequence[Tensor],
    slabs: Sequence[Tensor],
    convolution: Convolution,
    needed: Sequence[bool],
    in_torch: GradientsByWay,
    linear: bool = False,
    kept: Sequence[Tensor] = (),
) -> Gradients:
    """Gradients of the slabs, the weight (at its strides) and the bias; those not `needed` are empty.

    `grads` are one a slab. `in_torch` are ways to get any of the three in plain torch. `kept` is that of `kept_weight`.
    """
    to_slabs, to_weight, to_bias = needed
    empty = slabs[0].new_empty(0)
    of_slabs, of_weight, of_bias = [empty] * len(slabs), empty, empty
    inputs, outputs = (tuple(own.shape[1] for own in tensors) for tensors in (slabs, grads))
    if to_slabs:
        asked = problem_of("input gradient", slabs[0], inputs, outputs, convolution, linear)
        of_slabs = _of_slabs(asked, grads, slabs, convolution, in_torch, kept)
    if to_weight or to_bias:
        asked = problem_of("weight gradient", slabs[0], inputs, outputs, convolution, linear)
        of_weight, of_bias = _of_parameters(asked, grads, slabs, convolution, (to_weight, to_bias), in_torch)
    if to_weight:
        of_weight = at_strides_of(convolution.weight, of_weight.reshape(convolution.weight.shape))
    return of_slabs, of_weight if to_weight else empty, of_bias


def _of_slabs(
    asked: Problem,
    grads: Sequence[Tensor],
    slabs: Sequence[Tensor],
    convolution: Convolution,
    in_torch: GradientsByWay,
    kept: Sequence[Tensor],
) -> list[Tensor]:
    from slimkern.kernels import scroll_conv2d

    by_torch = {way: lambda _, own=own: own([True, False, False])[0] for way, own in in_torch.items()}
    if any(slab.shape[1] % CHANNELS for slab in slabs):
        return by_torch[TORCH](None)
    ready = [loadable(grad) for grad in grads]

    def launch(read: Reader, own: Any) -> list[Tensor]:
        weights, table = read(convolution, asked.inputs, asked.outputs)
        found = scroll_conv2d.input_gradient(ready, weights, table, asked.geometry, asked.image, own, asked.products)
        return [slabs[0].new_empty(0) if own is None else own for own in found]

    packed_before = partial(_packed, kept=kept)
    launches = {IN_PLACE: partial(launch, _in_place), PACKED: partial(launch, packed_before)}
    return run(asked, slabs[0], launches | by_torch)


def _of_parameters(
    asked: Problem,
    grads: Sequence[Tensor],
    slabs: Sequence[Tensor],
    convolution: Convolution,
    needed: tuple[bool, bool],
    in_torch: GradientsByWay,
) -> tuple[Tensor, Tensor]:
    from slimkern.kernels.scroll_conv2d_weight_gradient import weight_gradient

    ready, seen = [loadable(grad) for grad in grads], [loadable(slab) for slab in slabs]
    biases = [convolution.weight.new_empty(convolution.weight.shape[0])] if needed[1] else None

    def launch(own: Any) -> tuple[Tensor, Tensor]:
        weights, table = _in_place(convolution, asked.inputs, asked.outputs)
        (of_weight,), of_biases = weight_gradient(
            ready, seen, weights, biases, table, asked.geometry, own, asked.products
        )
        return of_weight, of_biases[0] if of_biases else of_weight.new_empty(0)

    by_torch = {way: lambda _, own=own: own([False, *needed])[1:] for way, own in in_torch.items()}
    return run(asked, slabs[0], {IN_PLACE: launch} | by_torch)


def run(problem: Problem, like: Tensor, launches: Mapping[str, Callable[[Any], Result]]) -> Result:
    """Run a pass the way that was measured to be the fastest.

    Args:
        problem: the pass.
        like: a tensor on the device.
        launches: by way, the one that serves where nothing was measured first; each takes a configuration, which torch
            ignores.
    """
    from slimkern.kernels.tuning import tuner

    with torch.cuda.device_of(like):
        return tuner(like.device).run(problem, launches)


def problem_of(
    operation: str,
    like: Tensor,
    inputs: Sequence[int],
    outputs: Sequence[int],
    convolution: Convolution,
    linear: bool = False,
) -> Problem:
    """A pass as the tuner knows it, `like` being a slab [N, C, H, W] and `inputs` those of each of the `outputs`."""
    from slimkern.kernels.launch import precision

    weight = convolution.weight
    kind = precision(like.dtype, linear) if like.dtype == torch.float32 else str(like.dtype).removeprefix("torch.")
    return _problem(
        operation, kind, like.shape[0],
        pair(like.shape[2:]), tuple(inputs), tuple(outputs), _geometry(convolution),
        (convolution.out_offset, convolution.in_offset), (weight.shape[0], weight.shape[1]), weight.stride(1) == 1,
    )  # fmt: skip


@lru_cache(4096)
def _problem(
    operation: str,
    kind: str,
    batch: int,
    image: Pair,
    inputs: tuple[int, ...],
    outputs: tuple[int, ...],
    geometry: Geometry,
    offsets: Pair,
    stored: Pair,
    side_by_side: bool,
) -> Problem:
    from slimkern.kernels.problem import Problem, turn

    turns = turn(offsets[0], stored[0]), turn(offsets[1], stored[1])
    return Problem(operation, kind, batch, image, inputs, outputs, geometry, turns, side_by_side)


def _in_place(
    convolution: Convolution, inputs: tuple[int, ...], outputs: tuple[int, ...]
) -> tuple[list[Tensor], SlabTable]:
    weight = _aligned(convolution.weight)
    offsets = convolution.out_offset, convolution.in_offset
    return [weight], _nested(tuple(weight.shape), weight.stride(), inputs, outputs, *offsets)


def _packed(
    convolution: Convolution, inputs: tuple[int, ...], outputs: tuple[int, ...], kept: Sequence[Tensor] = ()
) -> tuple[list[Tensor], SlabTable]:
    from slimkern.kernels import slab_table
    from slimkern.ops.pack_weights import flat_of, parts_of

    weight, offsets = convolution.weight, (convolution.out_offset, convolution.in_offset)
    parts = [(0, *size, *offsets) for size in zip(outputs, inputs, strict=True)]
    flat = kept[0] if kept else flat_of([weight], parts)
    return [flat], slab_table.packed(parts_of(flat, [weight], parts), inputs, weight.shape[0], offsets[0])


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


def _cut(widest: Tensor, channels: Sequence[int]) -> list[Tensor]:
    """The first channels of a slab, packed, each in memory of its own: the widest one's is the slab's."""
    results = [widest] * len(channels)
    for place, count in enumerate(channels):
        if place != channels.index(widest.shape[1]):
            results[place] = widest[:, :count].clone(memory_format=torch.channels_last)
    return results


def _few(slabs: Sequence[Tensor], out_channels: Sequence[int]) -> bool:
    """Whether sub-networks share an input of few channels, or one alone has an odd number of them."""
    channels = slabs[0].shape[1]
    return len(slabs) == 1 and channels < FEW_CHANNELS and (len(out_channels) > 1 or channels % CHANNELS > 0)


def _geometry(convolution: Convolution) -> Geometry:
    return Geometry(*(pair(own) for own in (convolution.weight.shape[2:], *convolution[3:6])))


def pair(numbers: Sequence[int]) -> Pair:
    """Height and width."""
    height, width = numbers
    return height, width


def loadable(tensor: Tensor) -> Tensor:
    """A slab or weight in packed memory that vectors and boxes can be loaded from."""
    return _aligned(packed(tensor))


def _aligned(tensor: Tensor) -> Tensor:
    return tensor if tensor.data_ptr() % 16 == 0 else tensor.clone()
