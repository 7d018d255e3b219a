from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from slimkern.ops import branch_conv2d
from tests.ops import truth
from tests.ops.registration import Recorder, check_registration


@dataclass(frozen=True)
class Case:
    """A call: what each row takes and gives, which rows learn, and how kernels move."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    bias: tuple[bool, ...] = ()
    learning: tuple[bool, ...] = ()
    batch: int = 2
    image: tuple[int, int] = (5, 4)

    def tensors(self, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor], list[Tensor | None] | None]:
        torch.manual_seed(0)
        slabs = [torch.randn(self.batch, count, *self.image, dtype=dtype) for count in self.inputs]
        fan_in = self.inputs * (len(self.outputs) // len(self.inputs))
        weights = [
            torch.randn(count, own, *self.kernel, dtype=dtype) for count, own in zip(self.outputs, fan_in, strict=True)
        ]
        if not self.bias:
            return slabs, weights, None
        drawn = [torch.randn(count, dtype=dtype) for count in self.outputs]
        return slabs, weights, [own if has else None for own, has in zip(drawn, self.bias, strict=True)]

    def truths(self, slabs: Sequence[Tensor], weights: Sequence[Tensor], biases: Any) -> list[Tensor]:
        rows = range(len(weights))
        return [
            F.conv2d(
                slabs[row % len(slabs)], weights[row], biases[row] if biases else None, self.stride, self.padding,
                self.dilation,
            )
            for row in rows
        ]  # fmt: skip

    def __call__(self, slabs: Sequence[Tensor], weights: Sequence[Tensor], biases: Any) -> list[Tensor]:
        return branch_conv2d(slabs, weights, biases, self.stride, self.padding, self.dilation)


CASES = {
    "rows_of_one_shape": Case((4, 4, 4), (6, 6, 6)),
    "ragged_rows": Case((4, 2, 3), (3, 5, 2), bias=(True, True, True)),
    "one_slab_that_all_share": Case((4,), (6, 2, 3), stride=(2, 2), bias=(True, True, True)),
    "one_row": Case((4,), (6,), bias=(True,)),
    "some_rows_have_a_bias": Case((4, 4), (3, 3), bias=(False, True)),
    "strided_1x1_of_few_channels": Case((4, 2), (3, 3), kernel=(1, 1), stride=(2, 2), padding=(0, 0)),
    "rectangular_everything": Case((2, 2), (3, 4), (2, 3), (1, 2), (0, 2), (2, 1), image=(6, 9)),
}
FROZEN = {
    "the_newest_learns": Case((4, 4, 4), (6, 6, 6), bias=(True, True, False), learning=(False, False, True)),
    "one_in_the_middle_learns": Case((4,), (6, 2, 3), learning=(False, True, False)),
    "none_learns": Case((4, 4), (3, 3), bias=(True, True), learning=(False, False)),
}


def check(case: Case, dtype: torch.dtype) -> None:
    slabs, weights, biases = case.tensors(dtype)
    learning = case.learning or (True,) * len(weights)
    leaves = [*weights, *(bias for bias in biases or () if bias is not None)]
    for row, learns in enumerate(learning):
        for leaf in (weights[row], biases[row] if biases else None):
            if leaf is not None:
                leaf.requires_grad_(learns)
    if not case.learning:
        leaves += slabs
        for slab in slabs:
            slab.requires_grad_()
    exact = {id(leaf): leaf.detach().double().requires_grad_(leaf.requires_grad) for leaf in [*leaves, *slabs]}
    doubled = [[exact.get(id(own)) for own in group] for group in (slabs, weights, biases or [])]
    results, truths = case(slabs, weights, biases), case.truths(*doubled)  # type: ignore[arg-type]
    assert [result.requires_grad for result in results] == list(learning)
    grads = [torch.randn_like(result) for result in results]
    if any(learning):
        own, true = ([out for out, learns in zip(outs, learning, strict=True) if learns] for outs in (results, truths))
        chosen = [grad for grad, learns in zip(grads, learning, strict=True) if learns]
        torch.autograd.backward(own, chosen)
        torch.autograd.backward(true, [grad.double() for grad in chosen])
    for place, (result, expected) in enumerate(zip(results, truths, strict=True)):
        truth.assert_near(f"result {place}", result, expected)
        assert result.is_contiguous(memory_format=torch.channels_last)
    for leaf in leaves:
        if leaf.requires_grad:
            truth.assert_near(f"gradient of {tuple(leaf.shape)}", leaf.grad, exact[id(leaf)].grad)
        else:
            assert leaf.grad is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("case", [*CASES.values(), *FROZEN.values()], ids=[*CASES, *FROZEN])
def test_equals_a_convolution_a_row(case: Case, dtype: torch.dtype) -> None:
    check(case, dtype)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    rows = draw(st.integers(1, 3))
    counts = st.lists(st.integers(1, 4), min_size=rows, max_size=rows)
    flags = st.lists(st.booleans(), min_size=rows, max_size=rows)
    pair = st.tuples(st.integers(1, 2), st.integers(1, 2))
    inputs = tuple(draw(counts))
    return Case(
        inputs[:1] if draw(st.booleans()) else inputs,
        tuple(draw(counts)),
        draw(pair),
        draw(pair),
        draw(st.tuples(st.integers(0, 2), st.integers(0, 2))),
        draw(pair),
        tuple(draw(flags)) if draw(st.booleans()) else (),
        tuple(draw(flags)) if draw(st.booleans()) else (),
        draw(st.integers(1, 3)),
    )


@given(cases())
def test_equals_a_convolution_a_row_for_drawn_shapes(case: Case) -> None:
    check(case, torch.float64)


@pytest.mark.parametrize("name", ["ragged_rows", "one_slab_that_all_share"])
def test_gradcheck(name: str) -> None:
    case = CASES[name]
    slabs, weights, biases = case.tensors(torch.float64)
    assert biases is not None
    leaves = [own.requires_grad_() for own in (*slabs, *weights, *biases) if own is not None]
    ends = len(slabs), len(slabs) + len(weights)

    def function(*leaves: Tensor) -> tuple[Tensor, ...]:
        return tuple(case(leaves[: ends[0]], leaves[ends[0] : ends[1]], leaves[ends[1] :]))

    assert torch.autograd.gradcheck(function, leaves, fast_mode=True)


@pytest.mark.parametrize("case", [*CASES.values(), *FROZEN.values()], ids=[*CASES, *FROZEN])
def test_registration(case: Case) -> None:
    slabs, weights, biases = case.tensors(torch.float32)
    for row, weight in enumerate(weights):
        weight.requires_grad_(not case.learning or case.learning[row])
    check_registration(lambda: case(slabs, weights, biases))


class BackwardRecorder(torch.utils._python_dispatch.TorchDispatchMode):
    """Remembers the weights of each call of our backward operators."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[list[Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__.startswith("branch_conv2d_backward"):
            self.weights.append(args[2])
        return func(*args, **kwargs or {})


def test_a_frozen_row_is_neither_kept_nor_computed() -> None:
    case = FROZEN["the_newest_learns"]
    slabs, weights, biases = case.tensors(torch.float32)
    weights[2].requires_grad_()
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        results = case(slabs, weights, biases)
    assert [any(own is one for own in kept) for one in (*slabs, *weights)] == [False, False, True] * 2
    with BackwardRecorder() as recorder:
        results[2].sum().backward()
    ((own,),) = recorder.weights
    assert torch.equal(own, weights[2])


def test_a_result_that_no_loss_uses_costs_nothing() -> None:
    case = CASES["rows_of_one_shape"]
    slabs, weights, _ = case.tensors(torch.float32)
    for weight in weights:
        weight.requires_grad_()
    with BackwardRecorder() as recorder:
        case(slabs, weights, None)[1].sum().backward()
    assert [len(own) for own in recorder.weights] == [1]
    assert [weight.grad is None for weight in weights] == [True, False, True]


def test_frozen_results_may_be_changed_in_place() -> None:
    case = FROZEN["the_newest_learns"]
    slabs, weights, biases = case.tensors(torch.float32)
    weights[2].requires_grad_()
    frozen, _, newest = case(slabs, weights, biases)
    frozen.relu_()
    newest.sum().backward()
    assert weights[2].grad is not None and not frozen.requires_grad


def test_compiles_as_one_graph() -> None:
    case = FROZEN["the_newest_learns"]
    slabs, weights, biases = case.tensors(torch.float32)
    weights[2].requires_grad_()

    def loss(slabs: list[Tensor], weights: list[Tensor]) -> Tensor:
        return torch.stack([out.relu().sum() for out in case(slabs, weights, biases)]).sum()

    (expected,) = torch.autograd.grad(loss(slabs, weights), [weights[2]])
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    (given,) = torch.autograd.grad(compiled(slabs, weights), [weights[2]])
    torch.testing.assert_close(given, expected)


def test_autocast_gives_bfloat16_and_gradients_of_the_weights_dtype() -> None:
    case = CASES["ragged_rows"]
    slabs, weights, biases = case.tensors(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        results = case(slabs, [weight.requires_grad_() for weight in weights], biases)
    assert all(result.dtype == torch.bfloat16 for result in results)
    torch.autograd.backward(results, [torch.ones_like(result) for result in results])
    assert all(weight.grad is not None and weight.grad.dtype == torch.float32 for weight in weights)


def test_calls_reach_the_operator_with_zeros_for_a_missing_bias() -> None:
    case = CASES["some_rows_have_a_bias"]
    with Recorder() as recorder:
        case(*case.tensors(torch.float32))
    ((_, arguments),) = recorder.calls
    assert [bool(bias.any()) for bias in arguments[2]] == [False, True]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"slabs": []}, "0 slabs for 2 weights; give as many, or one to share"),
        ({"slabs": [torch.ones(1, 4, 5, 5)] * 3}, "3 slabs for 2 weights; give as many, or one to share"),
        ({"slabs": [torch.ones(4, 5, 5)] * 2}, r"slabs\[0\] has shape \(4, 5, 5\); it must have 4 axes"),
        ({"slabs": [torch.ones(0, 4, 5, 5)]}, r"slabs\[0\] of shape \(0, 4, 5, 5\) is empty"),
        ({"weights": []}, "weights is empty; at least one weight is needed"),
        ({"weights": [torch.ones(2, 4)] * 2}, r"weights\[0\] has shape \(2, 4\); it must have 4 axes"),
        ({"weights": [torch.ones(2, 3, 1, 1)] * 2}, r"weights\[0\] takes 3 channels; its slab has 4"),
        ({"weights": [torch.ones(2, 4, 1, 1).double()] * 2}, r"weights\[0\] is torch.float64 on cpu, the slabs are"),
        ({"biases": [None]}, "1 biases for 2 weights; give as many, or None"),
        ({"biases": [torch.ones(3), None]}, "bias has 3 entries; the weight's outputs are 2"),
        ({"biases": [None, torch.ones(2, device="meta")]}, r"biases\[1\] is torch.float32 on meta"),
    ],
    ids=lambda value: value[:40].replace(" ", "_") if isinstance(value, str) else "",
)
def test_bad_arguments_are_named(changes: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"slabs": [torch.ones(1, 4, 5, 5)], "weights": [torch.ones(2, 4, 1, 1)] * 2}
    branch_conv2d(**good)
    with pytest.raises(ValueError, match=f"branch_conv2d: .*{message}"):
        branch_conv2d(**(good | changes))
