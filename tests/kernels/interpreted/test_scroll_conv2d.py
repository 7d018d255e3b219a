from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from slimkern.kernels.geometry import Geometry
from slimkern.kernels.scroll_conv2d import forward, input_gradient
from slimkern.kernels.slab_table import frozen, private
from slimkern.ops import scroll_conv2d
from slimkern.widths import Widths
from tests.kernels.interpreted.guards import Guarded
from tests.kernels.interpreted.nested_widths import EVERY_SCROLL_OF_A_SHAPE, LARGE, MANY, Case, check, random, tile
from tests.ops.truth import assert_near

both_ways = pytest.mark.parametrize("in_place", [True, False], ids=["in_place", "packed"])


@both_ways
@pytest.mark.parametrize(("number", "widths", "scroll"), EVERY_SCROLL_OF_A_SHAPE)
def test_every_scroll(number: int, widths: Widths, scroll: int, in_place: bool) -> None:
    check(Case.of_shape(number, widths, scroll, in_place=in_place, bias=number % 3 > 0, configuration=MANY))


@both_ways
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("side", "batch"), [(7, 3), (14, 1), (28, 1), (33, 1)])
def test_all_taps_of_odd_images(side: int, batch: int, stride: int, in_place: bool) -> None:
    geometry = Geometry((3, 3), (stride, stride), (1, 1))
    tiles = tile(1024, 16, 16)
    check(
        Case.at(
            Widths.of(2), 1, image=(side, side), batch=batch, geometry=geometry, in_place=in_place, configuration=tiles
        )
    )


CASES = {
    "one_by_one": Case(geometry=Geometry((1, 1)), image=(5, 5)),
    "one_by_one_stride_2_leaves_pixels_unread": Case(geometry=Geometry((1, 1), (2, 2)), image=(6, 5)),
    "no_padding": Case(geometry=Geometry((3, 3))),
    "more_padding_than_the_radius": Case(geometry=Geometry((3, 3), padding=(4, 3)), image=(3, 2)),
    "even_kernel": Case(geometry=Geometry((4, 2), padding=(1, 1))),
    "rectangular_everything": Case(geometry=Geometry((2, 3), (1, 2), (0, 2), (2, 1)), image=(6, 9)),
    "stride_3_dilation_2": Case(geometry=Geometry((3, 3), (3, 3), (2, 2), (2, 2)), image=(11, 10)),
    "stride_2_dilation_2_meets_every_other_pixel": Case(
        geometry=Geometry((3, 3), (2, 2), (1, 1), (2, 2)), image=(9, 8)
    ),
    "stride_beyond_the_kernel": Case(geometry=Geometry((1, 2), (4, 3)), image=(6, 7)),
    "one_pixel": Case(image=(1, 1), batch=2),
    "small_tiles": Case(
        configuration=tile(16, 16, 16), channels=(24, 24), inputs=(8, 24), outputs=(8, 24), image=(4, 5)
    ),
    "tiles_larger_than_everything": Case((8,), (8,), configuration=tile(128, 128, 64), image=(2, 2)),
    "contiguous_weight": Case(layout=torch.contiguous_format, offsets=(8, 8)),
    "channels_not_multiples_of_8": Case((3, 6), (5, 10), (10, 6), (5, 3), image=(4, 4)),
    "subset_of_widths": Case((8, 24), (16, 48), (64, 32), (16, 8), image=(3, 3), bias=False),
    "float16": Case(dtype=torch.float16, image=(4, 4), offsets=(8, 8)),
    "bfloat16": Case(dtype=torch.bfloat16, image=(4, 4), offsets=(8, 8)),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_shapes(case: Case) -> None:
    check(case)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    widths = Widths.of(draw(st.sampled_from([1, 2, 3, (0.5, 1.0)])))
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    geometry = Geometry(draw(pair), draw(pair), draw(st.tuples(st.integers(0, 3), st.integers(0, 3))), draw(pair))
    image = draw(st.tuples(st.integers(5, 9), st.integers(5, 9)))
    assume(min(geometry.result(image)) > 0)
    return Case.at(
        widths,
        draw(st.integers(0, widths.blocks - 1)),
        image=image,
        batch=draw(st.integers(1, 2)),
        geometry=geometry,
        in_place=draw(st.booleans()),
        bias=draw(st.booleans()),
        configuration=tile(draw(st.sampled_from([64, 128])), 32, 32),
    )


@settings(max_examples=4)
@given(cases())
def test_drawn_shapes(case: Case) -> None:
    check(case)


def true_input_gradient(grad: Tensor, slab: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    leaf = slab.double().requires_grad_()
    (true,) = scroll_conv2d([leaf], weight.double(), None, [weight.shape[0]], 0, 0, *geometry[1:])
    true.backward(grad.double())
    assert leaf.grad is not None
    return leaf.grad


def private_weights(outputs: Sequence[int], inputs: int) -> list[Tensor]:
    torch.manual_seed(1)
    return [random(count, inputs, 3, 3, dtype=torch.float32) for count in outputs]


def test_private_weights_of_one_shared_input() -> None:
    geometry = Geometry((3, 3), (2, 2), (1, 1))
    weights = private_weights((8, 24, 16), 8)
    biases = [torch.randn(len(weight)) for weight in weights]
    slab = random(2, 8, 5, 5, dtype=torch.float32)
    table = private(weights, [8])
    results, _ = forward([slab], weights, biases, table, geometry, LARGE)
    grads = [torch.randn_like(result) for result in results]
    of_slabs = input_gradient(grads, weights, table, geometry, (5, 5), LARGE)
    for result, grad, of_slab, weight, bias in zip(results, grads, of_slabs, weights, biases, strict=True):
        (true,) = scroll_conv2d([slab.double()], weight.double(), bias.double(), [len(weight)], 0, 0, *geometry[1:])
        assert_near("result", result, true, 1e-5)
        assert_near("input gradient", of_slab, true_input_gradient(grad, slab, weight, geometry), 1e-5)


def test_slabs_that_read_a_stretch_of_wider_tensors() -> None:
    weights = private_weights((8, 8), 8)
    wide = random(1, 32, 4, 4, dtype=torch.float32)
    first, second = private(weights, [8])
    table = (replace(first, first_input=16), replace(second, first_input=8))
    results, _ = forward([wide], weights, None, table, Geometry((3, 3), padding=(1, 1)), LARGE)
    for result, weight, start in zip(results, weights, (16, 8), strict=True):
        (true,) = scroll_conv2d([wide[:, start : start + 8].double()], weight.double(), None, [8], padding=(1, 1))
        assert_near("result", result, true, 1e-5)


def test_frozen_slabs_have_no_input_gradient() -> None:
    geometry = Geometry((3, 3), padding=(1, 1))
    weights = private_weights((8, 8, 8), 8)
    grads = [random(1, 8, 4, 4, dtype=torch.float32) for _ in weights]
    table = frozen(private(weights, [8, 8, 8]), [0, 2])
    first, second, third = input_gradient(grads, weights, table, geometry, (4, 4), LARGE)
    assert first is None and third is None
    assert_near("gradient", second, true_input_gradient(grads[1], torch.zeros(1, 8, 4, 4), weights[1], geometry), 1e-5)
    assert input_gradient(grads, weights, frozen(table, [1]), geometry, (4, 4), LARGE) == [None] * 3


@pytest.mark.parametrize("pixels", [32, 64])
def test_moments_of_the_results(pixels: int) -> None:
    case = Case.at(Widths.of(2), 1, batch=3, image=(5, 5), configuration=tile(pixels, 16, 16))
    slabs, weight, bias = case.tensors()
    assert bias is not None
    table, read = case.launch(weight)
    with Guarded():
        results, moments = forward(slabs, [read], [bias + 1000], table, case.geometry, case.configuration, moments=True)
    assert moments is not None and moments.shape == (3, -(-75 // pixels), 8 + 16)
    count, mean, squares = moments.double()
    total = (count * mean).sum(0) / 75
    pixelwise = torch.cat([result.double().movedim(1, -1).flatten(0, 2) for result in results], 1)
    assert (count.sum(0) == 75).all()
    assert_near("mean", total, pixelwise.mean(0), 1e-6)
    variance = (squares + count * (mean - total).square()).sum(0) / 75
    assert_near("variance", variance, pixelwise.var(0, unbiased=False), 1e-4)


def test_weights_that_lie_differently_are_refused() -> None:
    weights = private_weights((8, 8), 8)
    weights[1] = weights[1].contiguous()
    slabs = [random(1, 8, 4, 4, dtype=torch.float32)] * 2
    with pytest.raises(ValueError, match=r"input strides \[1, 9\] can't share a launch"):
        forward(slabs, weights, None, private(weights, [8, 8]), Geometry((3, 3)), LARGE)
