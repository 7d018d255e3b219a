from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from slimkern.ops import scroll_conv2d_batch_norm
from slimkern.ops.batch_norm import BatchNorm, BatchNormGradient
from slimkern.ops.convolution import Convolution
from tests.ops import truth
from tests.ops.registration import check_registration

EPS = 1e-3
OPERATOR = sys.modules["slimkern.ops.scroll_conv2d_batch_norm"]
"""The module, which the function of the same name hides."""


@dataclass(frozen=True)
class Case:
    """Widths of (1, 2, 4) blocks of `inputs` channels in and `outputs` out; which of them are seen; what follows."""

    inputs: int = 2
    outputs: int = 3
    scroll: int = 0
    blocks: tuple[int, ...] = (1, 2, 4)
    stride: int = 1
    bias: bool = False
    running: bool = False
    affine: bool = True
    residual: bool = False
    relu: bool = False

    def tensors(self, dtype: torch.dtype) -> dict[str, Any]:
        torch.manual_seed(0)
        side, entries = (5 - 1) // self.stride + 1, 7 * self.outputs
        drawn: dict[str, Any] = {
            "slabs": [torch.randn(2, self.inputs * b, 5, 5, dtype=dtype) for b in self.blocks],
            "weight": torch.randn(4 * self.outputs, 4 * self.inputs, 3, 3, dtype=dtype),
            "bias": torch.randn(4 * self.outputs, dtype=dtype) if self.bias else None,
            "scale": torch.randn(entries, dtype=dtype) if self.affine else None,
            "shift": torch.randn(entries, dtype=dtype) if self.affine else None,
            "residuals": [torch.randn(2, c, side, side, dtype=dtype) for c in self.out_channels if self.residual],
        }
        return drawn | {"mean": torch.randn(entries, dtype=dtype), "variance": torch.rand(entries, dtype=dtype) + 0.5}

    @property
    def out_channels(self) -> list[int]:
        return [self.outputs * b for b in self.blocks]

    @property
    def offsets(self) -> list[int]:
        return [self.outputs * {1: 0, 2: 1, 4: 3}[b] for b in self.blocks]

    def run(self, tensors: dict[str, Any]) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
        offsets = self.outputs * self.scroll, self.inputs * self.scroll
        convolution = Convolution(tensors["weight"], *offsets, [self.stride] * 2, [1, 1], [1, 1], 1)
        statistics = (tensors["mean"], tensors["variance"]) if self.running else (None, None)
        return scroll_conv2d_batch_norm(
            tensors["slabs"], convolution, tensors["bias"], self.out_channels,
            BatchNorm(tensors["scale"], tensors["shift"], *statistics, EPS), self.offsets, tensors["residuals"],
            self.relu,
        )  # fmt: skip

    def true_results(self, tensors: dict[str, Any]) -> list[Tensor]:
        results = []
        rows = zip(tensors["slabs"], self.out_channels, self.offsets, strict=True)
        for place, (slab, count, offset) in enumerate(rows):
            own = slice(offset, offset + count)
            y = truth.conv2d(
                slab, tensors["weight"], tensors["bias"], count, self.outputs * self.scroll,
                self.inputs * self.scroll, (self.stride, self.stride), (1, 1),
            )  # fmt: skip
            scale, shift = (None if tensors[name] is None else tensors[name][own] for name in ("scale", "shift"))
            statistics = (tensors["mean"][own], tensors["variance"][own]) if self.running else None
            residual = tensors["residuals"][place] if self.residual else None
            results.append(truth.batch_norm(y, scale, shift, EPS, statistics, residual, self.relu))
        return results


CASES = {
    "plain": Case(),
    "scrolled_residual_relu": Case(scroll=3, residual=True, relu=True),
    "relu": Case(scroll=1, relu=True),
    "residual": Case(residual=True),
    "bias_stride": Case(bias=True, stride=2, scroll=2, residual=True, relu=True),
    "running_statistics": Case(running=True, relu=True, scroll=1),
    "no_affine": Case(affine=False, relu=True),
    "one_width": Case(blocks=(2,), scroll=3, relu=True),
    "two_widths": Case(blocks=(1, 4), scroll=2, residual=True),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def leaves(tensors: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    def leaf(tensor: Tensor) -> Tensor:
        return tensor.detach().to(dtype).requires_grad_()

    fixed = {"mean": tensors["mean"].to(dtype), "variance": tensors["variance"].to(dtype)}
    learned = {name: tensors[name] for name in ("weight", "bias", "scale", "shift")}
    lists = {name: [leaf(tensor) for tensor in tensors[name]] for name in ("slabs", "residuals")}
    return {name: None if t is None else leaf(t) for name, t in learned.items()} | lists | fixed


def compare(case: Case, dtype: torch.dtype) -> None:
    drawn = case.tensors(dtype)
    given, true = leaves(drawn, dtype), leaves(drawn, torch.float64)
    results, true_results = case.run(given)[0], case.true_results(true)
    weights = [torch.randn_like(result) for result in true_results]
    sum((r * w.to(dtype)).sum() for r, w in zip(results, weights, strict=True)).backward()
    sum((r * w).sum() for r, w in zip(true_results, weights, strict=True)).backward()
    for place, (result, true_result) in enumerate(zip(results, true_results, strict=True)):
        truth.assert_near(f"result {place}", result.detach(), true_result.detach())
    for name in ("weight", "bias", "scale", "shift"):
        if given[name] is not None and not (name == "bias" and not case.running):
            truth.assert_near(name, given[name].grad, true[name].grad)
    for name in ("slabs", "residuals"):
        for place, (own, true_own) in enumerate(zip(given[name], true[name], strict=True)):
            truth.assert_near(f"{name} {place}", own.grad, true_own.grad)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@every_case
def test_results_and_gradients_are_those_of_the_loops(case: Case, dtype: torch.dtype) -> None:
    compare(case, dtype)


@given(
    scroll=st.integers(0, 3),
    blocks=st.sets(st.sampled_from([1, 2, 4]), min_size=1).map(lambda chosen: tuple(sorted(chosen))),
    stride=st.integers(1, 2),
    running=st.booleans(),
    residual=st.booleans(),
    relu=st.booleans(),
)
def test_any_case_in_float64(**drawn: Any) -> None:
    compare(Case(**drawn), torch.float64)


def test_statistics_are_those_of_the_convolutions_results() -> None:
    case = Case(scroll=1)
    tensors = case.tensors(torch.float64)
    _, _, mean, variance = case.run(tensors)
    convolved = [
        truth.conv2d(slab, tensors["weight"], None, 3 * blocks, 3, 2, (1, 1), (1, 1))
        for slab, blocks in zip(tensors["slabs"], case.blocks, strict=True)
    ]
    expected = [truth.moments(y[:, channel]) for y in convolved for channel in range(y.shape[1])]
    truth.assert_near("mean", mean, torch.stack([moments[0] for moments in expected]))
    truth.assert_near("variance", variance, torch.stack([moments[1] for moments in expected]))


def test_a_result_that_no_loss_uses_takes_no_part_in_the_gradient() -> None:
    case = Case(scroll=1, relu=True)
    given = leaves(case.tensors(torch.float64), torch.float64)
    results = case.run(given)[0]
    results[0].square().sum().backward()
    rows = [(i + 3) % 12 for i in range(3)]
    outside = torch.tensor([row for row in range(12) if row not in rows])
    assert given["weight"].grad[outside].count_nonzero() == 0
    assert given["weight"].grad[rows].count_nonzero() > 0
    assert given["scale"].grad[3:].count_nonzero() == 0


@pytest.mark.parametrize("running", [False, True], ids=["batch_statistics", "running_statistics"])
def test_registration(running: bool) -> None:
    case = Case(scroll=3, residual=True, relu=True, running=running)
    check_registration(lambda: case.run(leaves(case.tensors(torch.float32), torch.float32)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", ["scrolled_residual_relu", "running_statistics"])
def test_all_slabs_at_once_give_what_one_after_the_other_does(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, where launches count: one batch norm forward and one backward."""
    case, calls = CASES[name], []
    for method, owner in (("apply_all", BatchNorm), ("backward_all", BatchNormGradient)):
        own = getattr(owner, method)
        monkeypatch.setattr(owner, method, lambda *given, own=own: calls.append(own) or own(*given))
    outcomes = []
    for turns in (OPERATOR._turns, lambda slabs, _: [slice(0, len(slabs))]):
        monkeypatch.setattr(OPERATOR, "_turns", turns)
        calls.clear()
        given = leaves(case.tensors(dtype), dtype)
        results, convolved, mean, variance = case.run(given)
        losses = [result.cos().sum() for result in [*results, *convolved]]
        torch.stack(losses).sum().backward()
        grads = [leaf.grad for leaf in [given["weight"], given["scale"], given["shift"], *given["slabs"]]]
        outcomes.append(([*results, *convolved, mean, variance, *grads], len(calls)))
    (one_by_one, many), (at_once, few) = outcomes
    assert (many, few) == (2 * len(case.blocks), 2)
    for one, other in zip(one_by_one, at_once, strict=True):
        assert torch.equal(one, other)


def test_one_value_a_channel_is_refused_before_anything_runs() -> None:
    convolution = Convolution(torch.randn(4, 4, 3, 3), 0, 0, [1, 1], [0, 0], [1, 1], 1)
    norm = BatchNorm(None, None, None, None, EPS)
    with pytest.raises(ValueError, match=r"a batch of shape \(1, 4, 1, 1\) has one value a channel"):
        scroll_conv2d_batch_norm([torch.randn(1, 4, 3, 3)], convolution, None, [4], norm, [0])
