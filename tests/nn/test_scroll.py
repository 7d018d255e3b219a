from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import nn

from slimkern import ScrollConv2d, ScrollLinear, current_scroll, scroll_to, set_scroll


def net() -> nn.Sequential:
    return nn.Sequential(ScrollConv2d(3, 8, 1, whole_in=True), nn.Flatten(), ScrollLinear(8, 5, whole_out=True))


@pytest.mark.parametrize(("task", "step", "scroll"), [(0, 1, 0), (1, 1, 1), (5, 1, 1), (2, 3, 2), (7, 0, 0)], ids=str)
def test_every_layer_scrolls_to_the_task(task: int, step: int, scroll: int) -> None:
    scrolling = net()
    assert scroll_to(scrolling, task, step) == scroll
    assert current_scroll(scrolling) == scroll == scrolling[0].scroll == scrolling[2].scroll


@pytest.mark.parametrize(("given", "scroll"), [(0, 0), (3, 3), (6, 2), (-1, 3)], ids=str)
def test_a_scroll_can_be_set(given: int, scroll: int) -> None:
    scrolling = net()
    assert set_scroll(scrolling, given) == scroll == current_scroll(scrolling)


def test_weights_stay_where_they_are() -> None:
    scrolling = net()
    before = [parameter.clone() for parameter in scrolling.parameters()]
    scroll_to(scrolling, 3)
    assert all(torch.equal(a, b) for a, b in zip(before, scrolling.parameters(), strict=True))


def test_a_networks_scroll_is_saved_and_restored() -> None:
    scrolling, other, file = net(), net(), io.BytesIO()
    scroll_to(scrolling, 2)
    torch.save(scrolling.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert current_scroll(other) == 2


def test_disagreeing_layers_are_refused() -> None:
    scrolling: Any = net()
    scrolling[0].scroll = 1
    with pytest.raises(ValueError, match=r"the layers of this network are at different scrolls: \[0, 1\]"):
        current_scroll(scrolling)


@pytest.mark.parametrize(("task", "step"), [(-1, 1), (1, -1)], ids=["task", "step"])
def test_negative_numbers_are_refused(task: int, step: int) -> None:
    with pytest.raises(ValueError, match=f"task={task} and step={step} must not be negative"):
        scroll_to(net(), task, step)


def test_a_network_that_does_not_scroll_is_refused() -> None:
    for function in (current_scroll, lambda net: scroll_to(net, 1), lambda net: set_scroll(net, 1)):
        with pytest.raises(
            ValueError, match=r"Linear has no scrolling layer; convert it with slimkern.scrollify first"
        ):
            function(nn.Linear(4, 4))
