from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from slimkern.ops import scroll_linear
from tests.ops import truth
from tests.ops.registration import check_registration


@dataclass(frozen=True)
class Case:
    """A call: the stored weight's shape, what each sub-network takes and gives, and where positions start."""

    weight: tuple[int, int]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    offsets: tuple[int, int] = (0, 0)
    bias: bool = True
    batch: tuple[int, ...] = (3,)
    strided: bool = False

    def tensors(self, dtype: torch.dtype) -> tuple[list[Tensor], Tensor, Tensor | None]:
        torch.manual_seed(0)
        slabs = [torch.randn(*self.batch, count, dtype=dtype) for count in self.inputs]
        if self.strided:
            slabs = [slab.repeat_interleave(2, dim=-1)[..., ::2] for slab in slabs]
        bias = torch.randn(self.weight[0], dtype=dtype) if self.bias else None
        return slabs, torch.randn(self.weight, dtype=dtype), bias


CASES = {
    "four_even_widths": Case((12, 8), (2, 4, 6, 8), (3, 6, 9, 12)),
    "scroll_wraps_around": Case((12, 8), (2, 4, 6, 8), (3, 6, 9, 12), offsets=(9, 6)),
    "uneven_widths": Case((8, 4), (1, 2, 4), (2, 4, 8), offsets=(4, 2)),
    "subset_of_widths": Case((8, 4), (1, 3), (2, 6), offsets=(4, 2), bias=False),
    "one_block_scrolled": Case((8, 8), (2,), (2,), offsets=(6, 6)),
    "width_one_scrolled": Case((8, 8), (8,), (8,), offsets=(2, 2)),
    "head_with_whole_out": Case((5, 8), (2, 4, 6, 8), (5, 5, 5, 5), offsets=(0, 4)),
    "whole_in_shared_input": Case((8, 3), (3,), (2, 4, 6, 8), offsets=(6, 0)),
    "shared_input_in_two_widths": Case((8, 3), (3,), (2, 6), offsets=(4, 0), bias=False),
    "tokens": Case((8, 4), (2, 4), (4, 8), offsets=(4, 2), batch=(2, 3)),
    "a_vector": Case((8, 4), (2, 4), (4, 8), offsets=(4, 2), batch=()),
    "strided_input": Case((4, 4), (2, 4), (2, 4), offsets=(2, 2), strided=True),
}


def true_results(case: Case, slabs: list[Tensor], weight: Tensor, bias: Tensor | None) -> list[Tensor]:
    seen = slabs if len(slabs) == len(case.outputs) else slabs * len(case.outputs)
    return [
        truth.linear(slab, weight, bias, outputs, *case.offsets)
        for slab, outputs in zip(seen, case.outputs, strict=True)
    ]


def check(case: Case, dtype: torch.dtype) -> None:
    slabs, weight, bias = case.tensors(dtype)
    leaves = [tensor.requires_grad_() for tensor in (*slabs, weight, *([] if bias is None else [bias]))]
    exact = truth.doubles(leaves)
    results = scroll_linear(slabs, weight, bias, case.outputs, *case.offsets)
    truths = true_results(case, exact[: len(slabs)], exact[len(slabs)], exact[-1] if case.bias else None)
    grads = [torch.randn_like(result) for result in results]
    torch.autograd.backward(results, grads)
    torch.autograd.backward(truths, [grad.double() for grad in grads])
    for place, (result, true) in enumerate(zip(results, truths, strict=True)):
        truth.assert_near(f"output {place}", result, true)
    names = [*(f"gradient of slab {place}" for place in range(len(slabs))), "gradient of weight", "gradient of bias"]
    for name, leaf, true in zip(names, leaves, exact, strict=False):
        truth.assert_near(name, leaf.grad, true.grad)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_equals_the_definition(case: Case, dtype: torch.dtype) -> None:
    check(case, dtype)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    blocks = draw(st.integers(1, 4))
    shares = sorted(draw(st.sets(st.integers(1, blocks), min_size=1)))
    scroll = draw(st.integers(0, blocks - 1))
    block_in, block_out = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    whole_in, whole_out = draw(st.booleans()), draw(st.booleans())
    inputs = tuple(block_in * (blocks if whole_in else share) for share in shares)
    return Case(
        weight=(block_out * blocks, block_in * blocks),
        inputs=inputs[-1:] if whole_in and draw(st.booleans()) else inputs,
        outputs=tuple(block_out * (blocks if whole_out else share) for share in shares),
        offsets=(0 if whole_out else scroll * block_out, 0 if whole_in else scroll * block_in),
        bias=draw(st.booleans()),
        batch=tuple(draw(st.lists(st.integers(1, 3), max_size=2))),
        strided=draw(st.booleans()),
    )


@given(cases())
def test_equals_the_definition_for_drawn_shapes(case: Case) -> None:
    check(case, torch.float64)


@pytest.mark.parametrize("scroll", range(4))
@pytest.mark.parametrize("whole", ["neither", "in", "out"])
def test_gradient_is_exactly_zero_outside_the_slab(scroll: int, whole: str) -> None:
    rows, columns = (0 if whole == "out" else 2 * scroll), (0 if whole == "in" else scroll)
    inputs, outputs = (4 if whole == "in" else 2), (8 if whole == "out" else 4)
    case = Case((8, 4), (inputs,), (outputs,), offsets=(rows, columns))
    slabs, weight, bias = case.tensors(torch.float32)
    assert bias is not None
    results = scroll_linear(slabs, weight.requires_grad_(), bias.requires_grad_(), case.outputs, *case.offsets)
    results[0].square().sum().backward()
    own_rows, own_columns = [(i + rows) % 8 for i in range(outputs)], [(j + columns) % 4 for j in range(inputs)]
    outside = torch.ones(8, 4, dtype=torch.bool)
    for row in own_rows:
        outside[row, own_columns] = False
    assert weight.grad is not None and bias.grad is not None
    assert (weight.grad[outside] == 0).all() and (weight.grad[~outside] != 0).all()
    assert [row for row in range(8) if bias.grad[row] != 0] == sorted(own_rows)


@pytest.mark.parametrize("name", ["scroll_wraps_around", "head_with_whole_out", "whole_in_shared_input"])
def test_gradcheck(name: str) -> None:
    case = CASES[name]
    slabs, weight, bias = case.tensors(torch.float64)

    def function(weight: Tensor, bias: Tensor, *slabs: Tensor) -> tuple[Tensor, ...]:
        return tuple(scroll_linear(slabs, weight, bias, case.outputs, *case.offsets))

    leaves = [tensor.requires_grad_() for tensor in (weight, bias, *slabs) if tensor is not None]
    assert torch.autograd.gradcheck(function, leaves, fast_mode=True)


@pytest.mark.parametrize("name", ["scroll_wraps_around", "whole_in_shared_input", "subset_of_widths"])
def test_registration(name: str) -> None:
    slabs, weight, bias = CASES[name].tensors(torch.float32)
    for tensor in (*slabs, weight):
        tensor.requires_grad_()
    check_registration(lambda: scroll_linear(slabs, weight, bias, CASES[name].outputs, *CASES[name].offsets))


def test_autocast_gives_bfloat16_and_gradients_of_the_weights_dtype() -> None:
    case = CASES["scroll_wraps_around"]
    slabs, weight, bias = case.tensors(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        results = scroll_linear(slabs, weight.requires_grad_(), bias, case.outputs, *case.offsets)
    assert all(result.dtype == torch.bfloat16 for result in results)
    for true, result in zip(scroll_linear(slabs, weight, bias, case.outputs, *case.offsets), results, strict=True):
        truth.assert_near("output", result, true.double(), tolerance=0.05)
    torch.autograd.backward(results, [torch.ones_like(result) for result in results])
    assert weight.grad is not None and weight.grad.dtype == torch.float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"slabs": []}, "slabs is empty; at least one slab is needed"),
        ({"slabs": [torch.ones(0, 4)]}, r"slabs\[0\] of shape \(0, 4\) is empty"),
        ({"slabs": [torch.ones(2, 4, dtype=torch.long)]}, r"slabs\[0\] is torch.int64; it must be of a floating-point"),
        ({"slabs": [torch.ones(2, 4), torch.ones(2, 4).half()]}, "all slabs must agree"),
        ({"weight": torch.ones(8, 4).double()}, "weight is torch.float64 on cpu, the slabs are torch.float32 on cpu"),
        ({"bias": torch.ones(8, device="meta")}, "bias is torch.float32 on meta, the slabs are torch.float32 on cpu"),
        ({"slabs": [torch.ones(2, 5)]}, r"slabs\[0\] has 5 channels; the weight takes at most 4"),
        ({"slabs": [torch.ones(2, 4)] * 2}, "2 slabs for 1 outputs; give as many, or one to share"),
        ({"out_features": [9]}, "output 0 has 9 channels; the weight gives 1 to 8"),
        ({"out_offset": 8}, "out_offset=8 must be a channel of the weight, 0 to 7"),
        ({"in_offset": -1}, "in_offset=-1 must be a channel of the weight, 0 to 3"),
    ],
    ids=lambda value: value[:40].replace(" ", "_") if isinstance(value, str) else "",
)
def test_bad_arguments_are_named(changes: dict[str, Any], message: str) -> None:
    good = {"slabs": [torch.ones(2, 4)], "weight": torch.ones(8, 4), "bias": None, "out_features": [8]}
    scroll_linear(**good)
    with pytest.raises(ValueError, match=f"scroll_linear: .*{message}"):
        scroll_linear(**(good | changes))


@pytest.mark.parametrize("entries", [4, 12])
def test_bias_of_another_length_is_refused(entries: int) -> None:
    with pytest.raises(ValueError, match=rf"bias has {entries} entries.* 8"):
        scroll_linear([torch.ones(2, 2)], torch.ones(8, 4), torch.ones(entries), [4], out_offset=2)
