"""Rows with weights of their own, by the backend triton, as users reach them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import pytest
import torch
from torch import Tensor

from slimkern.ops import branch_conv2d, branch_linear
from tests.ops.registration import check_registration
from tests.ops.truth import assert_near


@pytest.fixture(autouse=True)
def triton_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIMKERN_BACKEND", "triton,torch")


@dataclass(frozen=True)
class Case:
    """A call of `branch_conv2d`, or of `branch_linear` where there is no kernel."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    learning: tuple[bool, ...]
    kernel: int | None = 3
    stride: int = 1
    bias: bool = True
    slabs_need_gradients: bool = False
    layout: torch.memory_format = torch.contiguous_format

    def leaves(self, dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        torch.manual_seed(0)
        image, taps = ((4, 5), (self.kernel, self.kernel)) if self.kernel else ((), ())
        slabs = [torch.randn(2, count, *image) for count in self.inputs]
        fan_in = self.inputs * (len(self.outputs) // len(self.inputs))
        weights = [torch.randn(count, own, *taps) for count, own in zip(self.outputs, fan_in, strict=True)]
        biases = [torch.randn(count) for count in self.outputs] if self.bias else []
        if self.kernel:
            weights = [weight.contiguous(memory_format=self.layout) for weight in weights]
        slabs, weights, biases = ([own.to(dtype) for own in group] for group in (slabs, weights, biases))
        for slab in slabs:
            slab.requires_grad_(self.slabs_need_gradients)
        for group in (weights, biases):
            for own, learns in zip(group, self.learning, strict=False):
                own.requires_grad_(learns)
        return slabs, weights, biases

    def __call__(self, slabs: list[Tensor], weights: list[Tensor], biases: list[Tensor]) -> list[Tensor]:
        if self.kernel is None:
            return branch_linear(slabs, weights, biases or None)
        steps, pads = (self.stride, self.stride), (self.kernel // 2, self.kernel // 2)
        return branch_conv2d(slabs, weights, biases or None, steps, pads)


CASES = {
    "the_newest_learns": Case((8, 8, 8), (16, 16, 16), (False, False, True)),
    "all_learn_from_one_slab": Case((8,), (16, 8), (True, True), stride=2, slabs_need_gradients=True),
    "ragged_rows": Case((8, 16), (24, 8), (True, True), bias=False, slabs_need_gradients=True),
    "weights_in_channels_last": Case((8, 16), (24, 8), (True, False), layout=torch.channels_last),
    "one_tap": Case((8, 16), (24, 8), (True, True), kernel=1, slabs_need_gradients=True),
    "linear": Case((8, 16), (24, 8), (True, False), kernel=None),
    "linear_of_one_slab": Case((8,), (24, 8), (True, True), kernel=None, slabs_need_gradients=True),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@every_case
def test_equals_the_reference(case: Case) -> None:
    groups, exact = case.leaves(), case.leaves(torch.float64)
    results = case(*groups)
    with pytest.warns(UserWarning, match="torch serves a call that Triton doesn't take: torch.float64"):
        truths = case(*exact)
    for place, (result, true) in enumerate(zip(results, truths, strict=True)):
        assert_near(f"result {place}", result, true, 1e-5)
        assert result.requires_grad == true.requires_grad
    live = [place for place, result in enumerate(results) if result.requires_grad]
    grads = [torch.randn_like(results[place]) for place in live]
    torch.autograd.backward([results[place] for place in live], grads)
    torch.autograd.backward([truths[place] for place in live], [grad.double() for grad in grads])
    for own, true in zip(chain(*groups), chain(*exact), strict=True):
        if true.grad is None:
            assert own.grad is None
        else:
            assert_near(f"gradient of {tuple(own.shape)}", own.grad, true.grad, 1e-5)


@pytest.mark.parametrize("name", ["the_newest_learns", "weights_in_channels_last", "linear"])
def test_registration(name: str) -> None:
    check_registration(lambda: CASES[name](*CASES[name].leaves()))


@pytest.mark.parametrize(
    ("slabs", "weights", "reason"),
    [
        ([(1, 8, 4, 4)], [(4, 8, 3, 3)], "channel counts must be multiples of 8, 4 isn't"),
        ([(1, 8, 4, 4)], [(8, 8, 3, 3), (8, 8, 1, 1)], "kernels must agree in height and width"),
        ([(1, 8, 4, 4), (2, 8, 4, 4)], [(8, 8, 3, 3)] * 2, "slabs must agree in batch and image"),
    ],
    ids=["channels", "kernels", "batch"],
)
def test_what_the_kernels_do_not_take_is_told(
    slabs: list[tuple[int, ...]], weights: list[tuple[int, ...]], reason: str
) -> None:
    with pytest.warns(UserWarning, match=f"branch_conv2d: torch serves a call that Triton doesn't take: {reason}"):
        branch_conv2d([torch.ones(own) for own in slabs], [torch.ones(own) for own in weights])
