from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from slimkern.ops import branch_linear
from tests.ops import truth
from tests.ops.registration import check_registration


@dataclass(frozen=True)
class Case:
    """A call: what each row takes and gives, and which rows learn."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    learning: tuple[bool, ...]
    bias: bool = True
    batch: tuple[int, ...] = (3,)

    def tensors(self, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor], list[Tensor] | None]:
        torch.manual_seed(0)
        slabs = [torch.randn(*self.batch, count, dtype=dtype) for count in self.inputs]
        fan_in = self.inputs * (len(self.outputs) // len(self.inputs))
        weights = [torch.randn(count, own, dtype=dtype) for count, own in zip(self.outputs, fan_in, strict=True)]
        for weight, learns in zip(weights, self.learning, strict=True):
            weight.requires_grad_(learns)
        if not self.bias:
            return slabs, weights, None
        biases = [torch.randn(count, dtype=dtype) for count in self.outputs]
        return slabs, weights, [
            bias.requires_grad_(learns) for bias, learns in zip(biases, self.learning, strict=True)
        ]  # fmt: skip


CASES = {
    "rows_of_one_shape": Case((4, 4), (3, 3), (True, True)),
    "ragged_rows": Case((4, 2, 3), (3, 5, 2), (True, True, True), bias=False),
    "one_slab_that_all_share": Case((4,), (3, 2, 5), (True, True, True)),
    "frozen_rows": Case((4, 2, 3), (3, 5, 2), (False, True, False)),
    "frozen_rows_of_one_slab": Case((4,), (3, 2), (False, True)),
    "tokens": Case((4, 3), (3, 2), (True, True), batch=(2, 3)),
    "a_vector": Case((4, 3), (3, 2), (True, True), batch=()),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@every_case
def test_equals_a_linear_map_a_row(case: Case, dtype: torch.dtype) -> None:
    slabs, weights, biases = case.tensors(dtype)
    if all(case.learning):
        slabs = [slab.requires_grad_() for slab in slabs]
    leaves = [*slabs, *weights, *(biases or [])]
    exact = [leaf.detach().double().requires_grad_(leaf.requires_grad) for leaf in leaves]
    rows, count = range(len(weights)), len(slabs)
    truths = [
        F.linear(exact[row % count], exact[count + row], exact[count + len(weights) + row] if biases else None)
        for row in rows
    ]
    results = branch_linear(slabs, weights, biases)
    assert tuple(result.requires_grad for result in results) == case.learning
    for place, (result, true) in enumerate(zip(results, truths, strict=True)):
        truth.assert_near(f"result {place}", result, true)
        if result.requires_grad:
            grad = torch.randn_like(result)
            result.backward(grad, retain_graph=True)
            true.backward(grad.double(), retain_graph=True)
    for leaf, true in zip(leaves, exact, strict=True):
        if leaf.requires_grad:
            truth.assert_near(f"gradient of {tuple(leaf.shape)}", leaf.grad, true.grad)
        else:
            assert leaf.grad is None


@every_case
def test_gradcheck(case: Case) -> None:
    slabs, weights, biases = case.tensors(torch.float64)

    def learned(*_: Tensor) -> tuple[Tensor, ...]:
        return tuple(out for out in branch_linear(slabs, weights, biases) if out.requires_grad)

    leaves = [own for own in (*weights, *(biases or [])) if own.requires_grad]
    assert torch.autograd.gradcheck(learned, leaves, fast_mode=True)


@every_case
def test_registration(case: Case) -> None:
    slabs, weights, biases = case.tensors(torch.float32)
    check_registration(lambda: branch_linear(slabs, weights, biases))


def test_compiles_as_one_graph() -> None:
    slabs, weights, biases = CASES["frozen_rows"].tensors(torch.float32)

    def loss(slabs: list[Tensor], weights: list[Tensor]) -> Tensor:
        return torch.stack([out.square().sum() for out in branch_linear(slabs, weights, biases)]).sum()

    (expected,) = torch.autograd.grad(loss(slabs, weights), [weights[1]])
    (given,) = torch.autograd.grad(
        torch.compile(loss, fullgraph=True, backend="aot_eager")(slabs, weights), [weights[1]]
    )
    torch.testing.assert_close(given, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"slabs": [torch.ones(2, 4)] * 3}, "3 slabs for 2 weights; give as many, or one to share"),
        ({"slabs": [torch.ones(2, 4, dtype=torch.long)]}, r"slabs\[0\] is torch.int64; it must be of a floating-point"),
        ({"weights": [torch.ones(2, 4), torch.ones(2, 5)]}, r"weights\[1\] takes 5 channels; its slab has 4"),
        ({"weights": [torch.ones(2, 4, 1, 1)] * 2}, r"weights\[0\] has shape \(2, 4, 1, 1\); it must have 2 axes"),
        ({"biases": [torch.ones(2)]}, "1 biases for 2 weights; give as many, or None"),
    ],
    ids=lambda value: value[:40].replace(" ", "_") if isinstance(value, str) else "",
)
def test_bad_arguments_are_named(changes: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"slabs": [torch.ones(2, 4)], "weights": [torch.ones(2, 4)] * 2}
    branch_linear(**good)
    with pytest.raises(ValueError, match=f"branch_linear: .*{message}"):
        branch_linear(**(good | changes))
