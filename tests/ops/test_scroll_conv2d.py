from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from slimkern.ops import scroll_conv2d
from tests.ops import truth
from tests.ops.registration import check_registration


@dataclass(frozen=True)
class Case:
    """A call: the stored weight's shape, what each sub-network takes and gives, and where positions start."""

    weight: tuple[int, int, int, int]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    offsets: tuple[int, int] = (0, 0)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    bias: bool = True
    image: tuple[int, int] = (5, 4)
    layout: str = "channels last"

    @property
    def geometry(self) -> tuple[Any, ...]:
        return (*self.offsets, self.stride, self.padding, self.dilation, self.groups)

    def tensors(self, dtype: torch.dtype) -> tuple[list[Tensor], Tensor, Tensor | None]:
        torch.manual_seed(0)
        slabs = [laid_out(torch.randn(2, count, *self.image, dtype=dtype), self.layout) for count in self.inputs]
        weight = torch.randn(self.weight, dtype=dtype)
        bias = torch.randn(self.weight[0], dtype=dtype) if self.bias else None
        return slabs, weight, bias


def laid_out(slab: Tensor, layout: str) -> Tensor:
    if layout == "strided":
        return slab.repeat_interleave(2, dim=3)[..., ::2]
    return slab.contiguous(memory_format=torch.channels_last if layout == "channels last" else torch.contiguous_format)


FOUR = (2, 4, 6, 8)
CASES = {
    "four_even_widths": Case((8, 8, 3, 3), FOUR, FOUR),
    "scroll_wraps_around": Case((8, 8, 3, 3), FOUR, FOUR, offsets=(6, 6)),
    "uneven_widths_and_axes_of_their_own": Case((8, 4, 3, 3), (1, 2, 4), (2, 4, 8), offsets=(4, 2)),
    "subset_of_widths": Case((8, 4, 3, 3), (1, 3), (2, 6), offsets=(4, 2)),
    "one_block_scrolled": Case((8, 8, 3, 3), (2,), (2,), offsets=(6, 6)),
    "width_one_scrolled": Case((8, 8, 3, 3), (8,), (8,), offsets=(2, 2)),
    "whole_in_shared_input": Case((8, 3, 3, 3), (3,), FOUR, offsets=(6, 0)),
    "shared_input_in_two_widths": Case((8, 4, 3, 3), (4,), (2, 6), offsets=(4, 0)),
    "whole_out": Case((3, 8, 1, 1), FOUR, (3, 3, 3, 3), offsets=(0, 4), padding=(0, 0)),
    "stride_2_odd_sizes_no_bias": Case((4, 4, 3, 3), (2, 4), (2, 4), (2, 2), stride=(2, 2), image=(7, 5), bias=False),
    "rectangular_everything": Case(
        (4, 4, 2, 3), (2, 4), (2, 4), (2, 2), stride=(1, 2), padding=(0, 2), dilation=(2, 1), image=(6, 7)
    ),
    "one_by_one_stride_2": Case((8, 4, 1, 1), (2, 4), (4, 8), (4, 2), stride=(2, 2), padding=(0, 0), bias=False),
    "groups_cut_whole": Case((8, 2, 3, 3), (4, 8), (4, 8), offsets=(6, 6), groups=4),
    "groups_widening": Case((8, 1, 3, 3), (2, 4), (4, 8), offsets=(6, 3), groups=4),
    "depthwise": Case((8, 1, 3, 3), FOUR, FOUR, offsets=(6, 6), groups=8, stride=(2, 1)),
    "depthwise_shared_input": Case((4, 1, 3, 3), (4,), (4, 4), groups=4),
    "contiguous_input": Case((4, 4, 3, 3), (2, 4), (2, 4), offsets=(2, 2), layout="contiguous"),
    "strided_input": Case((4, 4, 3, 3), (2, 4), (2, 4), offsets=(2, 2), layout="strided"),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def true_results(case: Case, slabs: list[Tensor], weight: Tensor, bias: Tensor | None) -> list[Tensor]:
    seen = slabs if len(slabs) == len(case.outputs) else slabs * len(case.outputs)
    return [
        truth.conv2d(slab, weight, bias, outputs, *case.geometry)
        for slab, outputs in zip(seen, case.outputs, strict=True)
    ]


def check(case: Case, dtype: torch.dtype) -> None:
    slabs, weight, bias = case.tensors(dtype)
    leaves = [tensor.requires_grad_() for tensor in (*slabs, weight, *([] if bias is None else [bias]))]
    exact = truth.doubles(leaves)
    results = scroll_conv2d(slabs, weight, bias, case.outputs, *case.geometry)
    truths = true_results(case, exact[: len(slabs)], exact[len(slabs)], exact[-1] if case.bias else None)
    grads = [torch.randn_like(result) for result in results]
    torch.autograd.backward(results, grads)
    torch.autograd.backward(truths, [grad.double() for grad in grads])
    for place, (result, true) in enumerate(zip(results, truths, strict=True)):
        truth.assert_near(f"output {place}", result, true)
        assert result.is_contiguous(memory_format=torch.channels_last)
    names = [*(f"gradient of slab {place}" for place in range(len(slabs))), "gradient of weight", "gradient of bias"]
    for name, leaf, true in zip(names, leaves, exact, strict=False):
        truth.assert_near(name, leaf.grad, true.grad)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@every_case
def test_equals_the_definition(case: Case, dtype: torch.dtype) -> None:
    check(case, dtype)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    blocks = draw(st.integers(1, 4))
    shares = sorted(draw(st.sets(st.integers(1, blocks), min_size=1)))
    scroll = draw(st.integers(0, blocks - 1))
    block_in, block_out = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    grouped = blocks > 1 and draw(st.booleans())
    whole_in, whole_out = (False, False) if grouped else (draw(st.booleans()), draw(st.booleans()))
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    shared = whole_in and draw(st.booleans())
    inputs = tuple(block_in * (blocks if whole_in else share) for share in shares)
    return Case(
        weight=(block_out * blocks, block_in * (1 if grouped else blocks), *kernel),
        inputs=inputs[-1:] if shared else inputs,
        outputs=tuple(block_out * (blocks if whole_out else share) for share in shares),
        offsets=(0 if whole_out else scroll * block_out, 0 if whole_in else scroll * block_in),
        stride=draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        padding=draw(st.tuples(st.integers(0, 2), st.integers(0, 2))),
        dilation=draw(st.tuples(st.integers(1, 2), st.integers(1, 2))),
        groups=blocks if grouped else 1,
        bias=draw(st.booleans()),
        image=draw(st.tuples(st.integers(5, 7), st.integers(5, 7))),
        layout=draw(st.sampled_from(["channels last", "contiguous", "strided"])),
    )


@given(cases())
def test_equals_the_definition_for_drawn_shapes(case: Case) -> None:
    check(case, torch.float64)


@pytest.mark.parametrize("scroll", range(4))
@pytest.mark.parametrize("whole", ["neither", "in", "out"])
def test_gradient_is_exactly_zero_outside_the_slab(scroll: int, whole: str) -> None:
    rows, columns = (0 if whole == "out" else 2 * scroll), (0 if whole == "in" else scroll)
    inputs, outputs = (4 if whole == "in" else 2), (8 if whole == "out" else 4)
    case = Case((8, 4, 3, 3), (inputs,), (outputs,), offsets=(rows, columns))
    slabs, weight, bias = case.tensors(torch.float32)
    assert bias is not None
    results = scroll_conv2d(slabs, weight.requires_grad_(), bias.requires_grad_(), case.outputs, *case.geometry)
    results[0].square().sum().backward()
    own_rows, own_columns = [(i + rows) % 8 for i in range(outputs)], [(j + columns) % 4 for j in range(inputs)]
    outside = torch.ones(8, 4, dtype=torch.bool)
    for row in own_rows:
        outside[row, own_columns] = False
    assert weight.grad is not None and bias.grad is not None
    assert (weight.grad[outside] == 0).all() and (weight.grad[~outside] != 0).all()
    assert [row for row in range(8) if bias.grad[row] != 0] == sorted(own_rows)


def test_one_result_alone_can_be_differentiated() -> None:
    case = CASES["scroll_wraps_around"]
    slabs, weight, _ = case.tensors(torch.float64)
    results = scroll_conv2d(slabs, weight.requires_grad_(), None, case.outputs, *case.geometry)
    results[1].sum().backward()
    (exact,) = truth.doubles([weight])
    true_results(case, slabs, exact, None)[1].sum().backward()
    truth.assert_near("gradient of weight", weight.grad, exact.grad)


@pytest.mark.parametrize("name", ["scroll_wraps_around", "whole_in_shared_input", "groups_widening"])
def test_gradcheck(name: str) -> None:
    case = replace(CASES[name], image=(3, 3))
    slabs, weight, bias = case.tensors(torch.float64)

    def function(weight: Tensor, bias: Tensor, *slabs: Tensor) -> tuple[Tensor, ...]:
        return tuple(scroll_conv2d(slabs, weight, bias, case.outputs, *case.geometry))

    leaves = [tensor.requires_grad_() for tensor in (weight, bias, *slabs) if tensor is not None]
    assert torch.autograd.gradcheck(function, leaves, fast_mode=True)


@pytest.mark.parametrize("name", ["scroll_wraps_around", "whole_in_shared_input", "depthwise", "one_by_one_stride_2"])
def test_registration(name: str) -> None:
    slabs, weight, bias = CASES[name].tensors(torch.float32)
    for tensor in (*slabs, weight):
        tensor.requires_grad_()
    check_registration(lambda: scroll_conv2d(slabs, weight, bias, CASES[name].outputs, *CASES[name].geometry))


def test_autocast_gives_bfloat16_and_gradients_of_the_weights_dtype() -> None:
    case = CASES["scroll_wraps_around"]
    slabs, weight, bias = case.tensors(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        results = scroll_conv2d(slabs, weight.requires_grad_(), bias, case.outputs, *case.geometry)
    assert all(result.dtype == torch.bfloat16 for result in results)
    for true, result in zip(scroll_conv2d(slabs, weight, bias, case.outputs, *case.geometry), results, strict=True):
        truth.assert_near("output", result, true.double(), tolerance=0.05)
    torch.autograd.backward(results, [torch.ones_like(result) for result in results])
    assert weight.grad is not None and weight.grad.dtype == torch.float32


def refuse(message: str, **changed: Any) -> Any:
    return pytest.param(lambda: changed, message, id=message[:40].replace(" ", "_"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        refuse(r"slabs\[0\] has shape \(2, 4, 5\); it must have 4 axes", slabs=[torch.ones(2, 4, 5)]),
        refuse(r"slabs\[0\] of shape \(0, 4, 5, 5\) is empty", slabs=[torch.ones(0, 4, 5, 5)]),
        refuse(r"slabs\[0\] is torch.int64; it must be of a float", slabs=[torch.ones(2, 4, 5, 5, dtype=torch.long)]),
        refuse("all slabs must agree", slabs=[torch.ones(2, 2, 5, 5), torch.ones(2, 4, 5, 5).double()]),
        refuse("weight is torch.float64 on cpu, the slabs are torch.float32", weight=torch.ones(8, 4, 3, 3).double()),
        refuse("weight is torch.float32 on meta, the slabs are .*cpu", weight=torch.ones(8, 4, 3, 3, device="meta")),
        refuse("bias is torch.float64 on cpu, the slabs are torch.float32", bias=torch.ones(8).double()),
        refuse(r"slabs\[0\] has 5 channels; the weight takes at most 4", slabs=[torch.ones(2, 5, 5, 5)]),
        refuse("2 slabs for 1 outputs; give as many, or one to share", slabs=[torch.ones(2, 4, 5, 5)] * 2),
        refuse("output 0 has 9 channels; the weight gives 1 to 8", out_channels=[9]),
        refuse("output 0 has 0 channels; the weight gives 1 to 8", out_channels=[0]),
        refuse("out_offset=8 must be a channel of the weight, 0 to 7", out_offset=8),
        refuse("in_offset=-1 must be a channel of the weight, 0 to 3", in_offset=-1),
        refuse("4 input and 6 output channels do not cut whole groups of 2 inputs and 4", **{
            "weight": torch.ones(8, 2, 3, 3), "groups": 2, "out_channels": [6]}),
        refuse("out_offset=4 and in_offset=0 do not start at the same group of 2 inputs and 4", **{
            "weight": torch.ones(8, 2, 3, 3), "groups": 2, "out_offset": 4}),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(changes: Callable[[], dict[str, Any]], message: str) -> None:
    good = {"slabs": [torch.ones(2, 4, 5, 5)], "weight": torch.ones(8, 4, 3, 3), "bias": None, "out_channels": [8]}
    scroll_conv2d(**good)
    with pytest.raises(ValueError, match=f"scroll_conv2d: .*{message}"):
        scroll_conv2d(**(good | changes()))


def test_no_slabs_are_refused() -> None:
    with pytest.raises(ValueError, match="scroll_conv2d: slabs is empty; at least one slab is needed"):
        scroll_conv2d([], torch.ones(8, 4, 3, 3), None, [8])


@pytest.mark.parametrize("entries", [4, 12])
def test_bias_of_another_length_is_refused(entries: int) -> None:
    with pytest.raises(ValueError, match=rf"bias has {entries} entries.* 8"):
        scroll_conv2d([torch.ones(2, 2, 5, 5)], torch.ones(8, 4, 3, 3), torch.ones(entries), [4], out_offset=2)


@pytest.mark.parametrize("channels", [2, 3, 4, 5, 8])
def test_a_strided_1x1_convolution_of_few_channels(channels: int) -> None:
    """What oneDNN gets wrong, or never finishes, on some CPUs; only now and then, so several times."""
    for _ in range(10):
        slab, weight = torch.randn(4, channels, 7, 8), torch.randn(2 * channels, channels, 1, 1)
        found, expected = (
            [own.requires_grad_() for own in (slab.to(dtype, copy=True), weight.to(dtype, copy=True))]
            for dtype in (torch.float32, torch.float64)
        )
        for slab, weight in (found, expected):
            (result,) = scroll_conv2d([slab], weight, None, [2 * channels], stride=(2, 2))
            result.square().sum().backward()
        for own, true in zip(found, expected, strict=True):
            torch.testing.assert_close(own.grad, true.grad, rtol=1e-4, atol=1e-4, check_dtype=False)
