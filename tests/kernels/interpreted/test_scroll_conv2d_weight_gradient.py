from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from slimkern.kernels.configurations import ReductionConfiguration
from slimkern.kernels.geometry import Geometry
from slimkern.kernels.launch import Unsuitable
from slimkern.kernels.scroll_conv2d_weight_gradient import _plan, weight_gradient
from slimkern.kernels.slab_table import SlabTable, frozen, nested, private
from slimkern.widths import Widths
from tests.kernels.interpreted.guards import Guarded, surrounded
from tests.kernels.interpreted.nested_widths import EVERY_SCROLL, EVERY_SCROLL_OF_A_SHAPE, ODD
from tests.kernels.interpreted.nested_widths import Case as Gathered
from tests.ops.truth import assert_near

TOLERANCE = 1e-5


def pointers(taps: int, inputs: int, outputs: int, pixels: int) -> ReductionConfiguration:
    return ReductionConfiguration(taps, inputs, outputs, pixels, warps=4, stages=3, registers=128, shared=64 * 1024)


def boxes(inputs: int, outputs: int, pixels: int) -> ReductionConfiguration:
    return replace(pointers(1, inputs, outputs, pixels), boxes=True)


@dataclass(frozen=True)
class Case:
    """Nested widths of one weight: its channels, what each slab reads and gives, the images, and the tiles."""

    configuration: ReductionConfiguration
    channels: tuple[int, int] = (16, 16)
    inputs: tuple[int, ...] = (8, 16)
    outputs: tuple[int, ...] = (8, 16)
    offsets: tuple[int, int] = (0, 0)
    geometry: Geometry = field(default=Geometry((3, 3), padding=(1, 1)))
    image: tuple[int, int] = (7, 7)
    batch: int = 1
    layout: torch.memory_format = torch.channels_last

    @property
    def weight(self) -> Tensor:
        rows, columns = self.channels
        return torch.empty(rows, columns, *self.geometry.kernel).contiguous(memory_format=self.layout)

    @property
    def table(self) -> SlabTable:
        return nested(self.weight, self.inputs, self.outputs, *self.offsets)

    def tensors(self) -> tuple[list[Tensor], list[Tensor]]:
        torch.manual_seed(0)
        result = self.geometry.result(self.image)
        grads = [random(self.batch, count, *result) for count in self.outputs]
        return grads, [random(self.batch, count, *self.image) for count in self.inputs]


def random(*shape: int) -> Tensor:
    """Packed channels-last, between NaN."""
    return surrounded(torch.randn(*shape).contiguous(memory_format=torch.channels_last))


def truth(grads: Sequence[Tensor], slabs: Sequence[Tensor], case: Case) -> tuple[Tensor, Tensor]:
    """As the definition has it: each sub-network's gradient, added where its channels are stored."""
    geometry = case.geometry
    of_weight = torch.zeros(*case.channels, *geometry.kernel, dtype=torch.float64)
    of_bias = torch.zeros(case.channels[0], dtype=torch.float64)
    for grad, slab in zip(grads, slabs, strict=True):
        rows = (torch.arange(grad.shape[1]) + case.offsets[0]) % case.channels[0]
        columns = (torch.arange(slab.shape[1]) + case.offsets[1]) % case.channels[1]
        of_weight[rows[:, None], columns] += own_gradient(grad, slab, geometry)
        of_bias[rows] += grad.double().sum((0, 2, 3))
    return of_weight, of_bias


def own_gradient(grad: Tensor, slab: Tensor, geometry: Geometry) -> Tensor:
    shape = (grad.shape[1], slab.shape[1], *geometry.kernel)
    return torch.nn.grad.conv2d_weight(slab.double(), shape, grad.double(), *geometry[1:])


def check(case: Case, bias: bool = True) -> None:
    grads, slabs = case.tensors()
    biases = [torch.empty(case.channels[0])] if bias else None
    weight, table = case.weight, case.table
    with Guarded():
        of_weights, of_biases = weight_gradient(
            grads, slabs, [weight], biases, table, case.geometry, case.configuration
        )
    of_weight, of_bias = truth(grads, slabs, case)
    assert_near("gradient of the weight", of_weights[0], of_weight, TOLERANCE)
    assert of_weights[0].stride() == case.weight.stride()
    assert ((of_weight == 0) <= (of_weights[0] == 0)).all(), "a place that no slab reads isn't exactly zero"
    if bias:
        assert of_biases is not None
        assert_near("gradient of the bias", of_biases[0], of_bias, TOLERANCE)
    else:
        assert of_biases is None


WIDE = pointers(4, 16, 16, 512)
ONE_BY_ONE = Geometry((1, 1))
STRIDED = Geometry((3, 3), (2, 2), (1, 1))
CASES = {
    "7x7": Case(WIDE, batch=3),
    "14x14_stride_2": Case(WIDE, image=(14, 14), geometry=STRIDED, batch=3),
    "28x28": Case(WIDE, image=(28, 28)),
    "33x33_stride_2": Case(WIDE, image=(33, 33), geometry=STRIDED),
    "one_by_one_stride_2": Case(pointers(1, 16, 16, 16), image=(7, 5), geometry=Geometry((1, 1), (2, 2)), batch=3),
    "many_items_a_tile": Case(pointers(1, 16, 16, 16), geometry=ONE_BY_ONE, image=(16, 15), batch=3),
    "rectangular_everything": Case(
        pointers(2, 16, 16, 32), geometry=Geometry((2, 3), (1, 2), (0, 2), (2, 1)), image=(6, 7), batch=2
    ),
    "blocks_narrower_than_a_tile": Case(pointers(4, 32, 32, 64), (24, 24), (8, 24), (16, 24), (8, 16)),
    "axes_of_their_own": Case(pointers(4, 16, 16, 64), (32, 8), (8, 8, 8), (8, 16, 32), (24, 0)),
    "subset_of_widths_leaves_zeros": Case(pointers(4, 8, 16, 64), (32, 32), (8, 16), (8, 16), (24, 24)),
    "stem_with_3_channels": Case(pointers(16, 4, 32, 128), (32, 3), (3,), (32,), (8, 0), image=(8, 8), batch=3),
    "contiguous_weight": Case(WIDE, layout=torch.contiguous_format, offsets=(8, 8)),
    "boxes_of_rows": Case(boxes(16, 16, 16), image=(8, 8), batch=3),
    "boxes_of_images_beyond_the_batch": Case(boxes(16, 16, 32), image=(4, 4), batch=3),
    "boxes_stride_2": Case(boxes(16, 32, 32), (32, 32), (8, 24, 32), (8, 24, 32), (8, 24), STRIDED, (16, 16)),
    "boxes_stride_2_odd_image": Case(boxes(16, 16, 32), image=(15, 15), geometry=STRIDED),
    "boxes_one_by_one_stride_2": Case(boxes(16, 16, 16), image=(8, 8), geometry=Geometry((1, 1), (2, 2)), batch=3),
    "boxes_dilated_without_padding": Case(boxes(16, 16, 16), image=(8, 8), geometry=Geometry((3, 3), dilation=(2, 2))),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_equals_the_definition(case: Case) -> None:
    check(case)


@pytest.mark.parametrize(("number", "widths", "scroll"), EVERY_SCROLL_OF_A_SHAPE)
def test_every_scroll(number: int, widths: Widths, scroll: int) -> None:
    shape = Gathered.of_shape(number, widths, scroll)
    taps = shape.geometry.kernel[0] * shape.geometry.kernel[1]
    tiles = pointers(4 if taps > 4 else 2, 64 if len(widths.shares) > 4 else 32, 64, 1024)
    check(of(shape, tiles), bias=number % 3 > 0)


@pytest.mark.parametrize(("widths", "scroll"), EVERY_SCROLL.values(), ids=EVERY_SCROLL.keys())
def test_every_scroll_by_boxes(widths: Widths, scroll: int) -> None:
    geometry = Geometry((1, 2), (1 + scroll % 2, 1 + scroll % 2), (0, scroll % 2))
    image = (8, 7) if scroll % 2 else (4, 5)
    shape = Gathered.at(widths, scroll, image=image, batch=(1, 3)[scroll // 2 % 2], geometry=geometry)
    check(of(shape, boxes(64 if len(widths.shares) > 4 else 32, 64, 32)), bias=scroll % 3 == 1)


@pytest.mark.parametrize(("side", "stride"), ODD["forward"])
def test_odd_images_by_boxes(side: int, stride: int) -> None:
    check(
        Case(boxes(16, 16, 256), image=(side, side), batch=1 + 2 * (stride % 2), geometry=ODD["forward"][side, stride])
    )


def of(shape: Gathered, configuration: ReductionConfiguration) -> Case:
    """The weight gradient of what the forward pass's tests compute."""
    shared = ("channels", "inputs", "outputs", "offsets", "geometry", "image", "batch", "layout")
    return Case(configuration, **{name: getattr(shape, name) for name in shared})


@pytest.mark.parametrize("path", [pointers(4, 16, 16, 64), boxes(16, 16, 64)], ids=["pointers", "boxes"])
def test_private_weights_shared_input_and_frozen_slabs(path: ReductionConfiguration) -> None:
    geometry = Geometry((3, 3), padding=(1, 1))
    weights = [torch.empty(rows, columns, 3, 3) for rows, columns in ((8, 16), (24, 16), (16, 16))]
    biases = [torch.empty(len(weight)) for weight in weights]
    torch.manual_seed(0)
    slab = random(2, 16, 8, 8)
    grads = [random(2, len(weight), 8, 8) for weight in weights]
    grads[1].fill_(torch.nan)
    table = tuple(replace(row, source=0) for row in frozen(private(weights, [16] * 3), [1]))
    of_weights, of_biases = weight_gradient(grads, [slab], weights, biases, table, geometry, path)
    assert of_biases is not None
    for place in (0, 2):
        assert_near(f"weight {place}", of_weights[place], own_gradient(grads[place], slab, geometry), TOLERANCE)
        assert_near(f"bias {place}", of_biases[place], grads[place].double().sum((0, 2, 3)), TOLERANCE)
    assert not of_weights[1].any() and not of_biases[1].any()


def test_slabs_that_read_a_part_of_their_input() -> None:
    case = Case(pointers(4, 16, 16, 64), (16, 24), (8, 16), (16, 16))
    table = tuple(replace(row, source=0, first_input=first) for row, first in zip(case.table, (16, 0), strict=True))
    grads, _ = case.tensors()
    slab = random(1, 24, 7, 7)
    of_weights, _ = weight_gradient(grads, [slab], [case.weight], None, table, case.geometry, case.configuration)
    assert_near("weight", of_weights[0], truth(grads, [slab[:, 16:], slab[:, :16]], case)[0], TOLERANCE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_slabs_give_a_float32_gradient(dtype: torch.dtype) -> None:
    case = Case(pointers(4, 16, 16, 64))
    grads, slabs = ([tensor.to(dtype) for tensor in tensors] for tensors in case.tensors())
    of_weights, _ = weight_gradient(grads, slabs, [case.weight], None, case.table, case.geometry, case.configuration)
    assert of_weights[0].dtype == torch.float32
    assert_near("weight", of_weights[0], truth(grads, slabs, case)[0], TOLERANCE)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (Case(boxes(16, 16, 16)), "boxes of 16 pixels don't fit results of 7x7"),
        (Case(boxes(16, 16, 16), image=(32, 32)), "boxes of 16 pixels don't fit results of 32x32"),
        (Case(boxes(16, 16, 32), image=(6, 8)), "boxes of 32 pixels don't fit results of 6x8"),
        (Case(boxes(16, 16, 16), (16, 3), (3,), (16,), image=(8, 8)), "multiples of 8"),
        (Case(replace(boxes(16, 16, 16), taps=2), image=(8, 8)), "one tap"),
        (Case(boxes(16, 16, 16), image=(1, 8), geometry=Geometry((1, 1), (2, 2))), "every 2th row"),
    ],
    ids=["odd_image", "wide_image", "rows_left_over", "stem", "several_taps", "fewer_rows_than_the_stride"],
)
def test_refuses_boxes_that_do_not_fit(case: Case, message: str) -> None:
    with pytest.raises(Unsuitable, match=message):
        check(case)


@pytest.mark.parametrize(("inputs", "alignment"), [(4, 4), (16, 8)])
def test_no_stretch_is_said_to_be_longer_than_a_tap_has_channels(inputs: int, alignment: int) -> None:
    case = Case(pointers(4, inputs, 16, 64))
    device = torch.device("cpu")
    planned = _plan(case.table, case.geometry, (7, 7), (7, 7), 49, (8, 16), case.configuration, False, device)
    assert planned.constants["ALIGNMENT"] == alignment


@st.composite
def cases(draw: st.DrawFn) -> Case:
    blocks = draw(st.integers(1, 3))
    shares = sorted(draw(st.sets(st.integers(1, blocks), min_size=1)))
    scroll = draw(st.integers(0, blocks - 1))
    side = st.sampled_from([1, 2, 3])
    return Case(
        pointers(*(draw(st.sampled_from(sizes)) for sizes in ((1, 2, 8), (16, 32), (16, 32), (32, 128)))),
        (8 * blocks, 8 * blocks),
        tuple(8 * share for share in shares),
        tuple(8 * share for share in shares),
        (8 * scroll, 8 * scroll),
        Geometry(*(draw(st.tuples(side, side)) for _ in range(2)), draw(st.tuples(side, side)), (1, draw(side))),
        draw(st.tuples(st.integers(5, 9), st.integers(7, 9))),
        draw(st.integers(1, 3)),
    )


@settings(max_examples=4)
@given(cases())
def test_equals_the_definition_for_drawn_shapes(case: Case) -> None:
    check(case)
