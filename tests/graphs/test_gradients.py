"""What recorded steps leave on weights as their gradients, beside eager ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import slimkern as sk
from slimkern.graphs.gradients import Gradients


@pytest.fixture
def weights() -> nn.ParameterList:
    return nn.ParameterList([torch.ones(2), torch.ones(2)])


def test_steps_that_add_to_gradients_run_eagerly(weights: nn.ParameterList) -> None:
    def step(x: Tensor, first: bool) -> None:
        if first:
            weights[0].grad = None
        (x * weights[0]).sum().backward()

    launch = sk.capture(step, weights)
    for call in range(10):
        launch(torch.ones(2), first=call % 2 == 0)
        assert weights[0].grad is not None and weights[0].grad.tolist() == [1 + call % 2] * 2
    assert launch.reason == "recording failed: the step adds to gradients that it finds; let it drop them first"


@pytest.mark.parametrize("every", [1, 3])
def test_gradients_that_are_dropped_outside_of_the_step_are_not_lost(weights: nn.ParameterList, every: int) -> None:
    launch = sk.capture(lambda x: (x * weights[0]).sum().backward(), weights)
    for call in range(9):
        if call % every == 0:
            weights[0].grad = None
        launch(torch.ones(2))
        assert weights[0].grad is not None and weights[0].grad.tolist() == [1 + call % every] * 2


def test_gradients_that_the_step_drops_stay_dropped(weights: nn.ParameterList) -> None:
    def step(x: Tensor, which: int) -> None:
        for own in weights:
            own.grad = None
        (x * weights[which]).sum().backward()

    launch = sk.capture(step, weights)
    for call in range(10):
        launch(torch.ones(2), which=call % 2)
        assert [own.grad is None for own in weights] == [call % 2 == 1, call % 2 == 0]
    assert launch.recorded == 2


def test_gradients_that_the_step_leaves_alone_stay(weights: nn.ParameterList) -> None:
    weights[1].grad = torch.full((2,), 3.0)
    launch = sk.capture(lambda x: (x * weights[0]).detach(), weights, warmup=0)
    for _ in range(3):
        launch(torch.ones(2))
        assert weights[0].grad is None and weights[1].grad.tolist() == [3, 3]
    weights[0].grad = torch.full((2,), 4.0)
    launch(torch.ones(2))
    assert weights[0].grad.tolist() == [4, 4] and launch.recorded == 1


def test_what_was_lent_is_taken_back_after_an_error(weights: nn.ParameterList) -> None:
    launch = sk.capture(lambda x: 1 // 0, weights, warmup=0)
    with pytest.raises(ZeroDivisionError):
        launch(torch.ones(2))
    assert [own.grad for own in weights] == [None, None]


def test_frozen_weights_are_lent_nothing() -> None:
    weight = nn.Parameter(torch.ones(1), requires_grad=False)
    gradients = Gradients([weight])
    assert weight.grad is None and not gradients.given() and not gradients.dropped()
