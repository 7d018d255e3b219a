"""Cases of nested widths, and what the kernels must compute for them: the reference in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product

import pytest
import torch
from torch import Tensor

from slimkern.kernels.configurations import Configuration
from slimkern.kernels.geometry import Geometry, Pair
from slimkern.kernels.scroll_conv2d import forward, input_gradient
from slimkern.kernels.slab_table import SlabTable, nested, packed
from slimkern.ops import pack_weights, scroll_conv2d
from slimkern.widths import Widths
from tests.kernels.interpreted.guards import Guarded, surrounded
from tests.ops.truth import assert_near

TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 4e-2}
"""The interpreter cuts bfloat16 off instead of rounding it."""


def tile(pixels: int, channels: int, depth: int, boxes: bool = False) -> Configuration:
    return Configuration(pixels, channels, depth, warps=4, stages=3, registers=255, shared=64 * 1024, boxes=boxes)


LARGE = tile(256, 64, 64)
MANY = tile(1024, 64, 64)
SHAPES = list(product((7, 14, 28, 33), (1, 3), (1, 2)))
"""Sides of images, batches and strides, all of which every kernel meets."""


@dataclass(frozen=True)
class Case:
    """Nested widths of one weight: what each slab reads and gives, where positions start, the images, the tiles."""

    inputs: tuple[int, ...] = (8, 16)
    outputs: tuple[int, ...] = (8, 16)
    channels: Pair = (16, 16)
    offsets: Pair = (0, 0)
    geometry: Geometry = field(default=Geometry((3, 3), padding=(1, 1)))
    image: Pair = (7, 7)
    batch: int = 1
    in_place: bool = True
    bias: bool = True
    layout: torch.memory_format = torch.channels_last
    configuration: Configuration = LARGE
    dtype: torch.dtype = torch.float32

    @classmethod
    def at(cls, widths: Widths, scroll: int, blocks: Pair = (8, 8), **more: object) -> Case:
        """All widths of a network after `scroll` blocks; `blocks` are the output and input channels of a block."""
        rows, columns = (size * widths.blocks for size in blocks)
        outputs, inputs = (tuple(size * share for share in widths.shares) for size in blocks)
        offsets = widths.offset(rows, scroll), widths.offset(columns, scroll)
        return cls(inputs, outputs, (rows, columns), offsets, **more)  # type: ignore[arg-type]

    @classmethod
    def of_shape(cls, number: int, widths: Widths, scroll: int, **more: object) -> Case:
        """As `at`, for one of the `SHAPES`; sub-networks are many, or taps are."""
        side, batch, stride = SHAPES[number % len(SHAPES)]
        kernel = (3, 3) if len(widths.shares) <= 2 else ((1, 3), (3, 1))[number % 2]
        geometry = Geometry(kernel, (stride, stride), (kernel[0] // 2, kernel[1] // 2))
        return cls.at(widths, scroll, image=(side, side), batch=batch, geometry=geometry, **more)

    def tensors(self) -> tuple[list[Tensor], Tensor, Tensor | None]:
        torch.manual_seed(0)
        slabs = [random(self.batch, count, *self.image, dtype=self.dtype) for count in self.inputs]
        weight = torch.randn(*self.channels, *self.geometry.kernel, dtype=self.dtype)
        bias = torch.randn(self.channels[0], dtype=self.dtype) if self.bias else None
        weight = surrounded(weight.contiguous(memory_format=self.layout))
        return slabs, weight, None if bias is None else surrounded(bias)

    def launch(self, weight: Tensor) -> tuple[SlabTable, Tensor]:
        """The table, and the weight tensor that it speaks of."""
        if self.in_place:
            return nested(weight, self.inputs, self.outputs, *self.offsets), weight
        sizes = zip(self.outputs, self.inputs * (len(self.outputs) // len(self.inputs)), strict=True)
        parts = pack_weights([weight], [(0, *size, *self.offsets) for size in sizes])
        return packed(parts, self.inputs, self.channels[0], self.offsets[0]), surrounded(flat(parts[0]))


def random(*shape: int, dtype: torch.dtype) -> Tensor:
    """Packed channels-last, between NaN."""
    return surrounded(torch.randn(*shape, dtype=dtype).contiguous(memory_format=torch.channels_last))


def flat(part: Tensor) -> Tensor:
    """The whole buffer that a packed part is a view of."""
    buffer = part.untyped_storage()
    return torch.empty(0, dtype=part.dtype).set_(buffer, 0, (buffer.nbytes() // part.element_size(),))


def check(case: Case, passes: Sequence[str] = ("forward", "input gradient")) -> None:
    slabs, weight, bias = case.tensors()
    geometry = case.geometry
    table, read = case.launch(weight)
    exact = [slab.double().requires_grad_() for slab in slabs]
    truths = scroll_conv2d(
        exact, weight.double(), None if bias is None else bias.double(), case.outputs, *case.offsets, *geometry[1:]
    )
    grads = [random(*true.shape, dtype=case.dtype) for true in truths]
    torch.autograd.backward(truths, [grad.double() for grad in grads])
    if "forward" in passes:
        with Guarded():
            results, _ = forward(slabs, [read], None if bias is None else [bias], table, geometry, case.configuration)
        check_results(case, results, truths)
    if "input gradient" in passes:
        with Guarded():
            of_slabs = input_gradient(grads, [read], table, geometry, case.image, case.configuration)
        for place, (gradient, slab) in enumerate(zip(of_slabs, exact, strict=True)):
            assert_near(f"gradient of slab {place}", gradient, slab.grad, TOLERANCE[case.dtype])


def check_results(case: Case, results: Sequence[Tensor], truths: Sequence[Tensor]) -> None:
    for place, (result, true) in enumerate(zip(results, truths, strict=True)):
        assert_near(f"result {place}", result, true, TOLERANCE[case.dtype])
        assert result.is_contiguous(memory_format=torch.channels_last)


EVERY_SCROLL = {
    f"{len(widths.shares)}_widths_of_{widths.blocks}_blocks_scroll_{scroll}": (widths, scroll)
    for widths in map(Widths.of, (1, 2, 4, 8, (0.25, 0.5, 1.0), (0.2, 1.0)))
    for scroll in range(widths.blocks)
}
EVERY_SCROLL_OF_A_SHAPE = [
    pytest.param(number, widths, scroll, id="{}_side_{}_batch_{}_stride_{}".format(name, *SHAPES[number % len(SHAPES)]))
    for number, (name, (widths, scroll)) in enumerate(EVERY_SCROLL.items())
]

ODD = {
    "forward": {
        (7, 1): Geometry((2, 2), padding=(1, 1)),
        (7, 2): Geometry((3, 3), (2, 2), (1, 1)),
        (14, 1): Geometry((1, 1), padding=(1, 1)),
        (14, 2): Geometry((3, 3), (2, 2), (2, 2)),
        (28, 1): Geometry((3, 1), padding=(3, 2)),
        (28, 2): Geometry((1, 3), (2, 2), (2, 3)),
        (33, 1): Geometry((2, 2)),
        (33, 2): Geometry((3, 3), (2, 2)),
    },
    "input gradient": {
        (8, 7): Geometry((2, 2)),
        (16, 14): Geometry((3, 3)),
        (32, 28): Geometry((5, 1), padding=(0, 0)),
        (32, 33): Geometry((2, 2), padding=(1, 1)),
    },
}
"""Images of odd sides, and strides, whose results have sides that are powers of two; and the reverse."""
