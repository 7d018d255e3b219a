from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from slimkern.continual.config import ConfigError, ScrollName, TrainConfig
from slimkern.continual.network import ContinualNet
from slimkern.continual.scroll_policies import (
    Correlation,
    ScrollPolicy,
    correlation,
    make_scroll_policy,
    overlap,
    profile,
)
from slimkern.continual.training import Trainer, train
from slimkern.models import resnet18
from slimkern.nn import set_scroll
from slimkern.widths import Widths
from tests.continual.few_digits import TINY, Listener, Noting, differences, few_digits, restored

IMAGES = torch.zeros(2, 1, 4, 4)


def net(widths: Any = 4) -> ContinualNet:
    of = Widths.of(widths)
    return ContinualNet(resnet18(None, of, in_channels=1, channels=of.blocks), of)


def chosen(policy: ScrollPolicy, tasks: int, widths: Any = 4) -> list[int]:
    own, scrolls = net(widths), []
    for task in range(tasks):
        scrolls.append(set_scroll(own, policy.choose(own, task, IMAGES)))
        policy.task_learned(own, IMAGES)
    return scrolls


@pytest.mark.parametrize(
    ("name", "step", "widths", "expected"),
    [
        ("constant", 1, 4, [0, 1, 2, 3, 0]),
        ("constant", 3, 4, [0, 3, 2, 1, 0]),
        ("constant", 1, (0.25, 0.5, 1.0), [0, 1, 2, 3, 0]),
        ("none", 1, 4, [0, 0, 0, 0, 0]),
        ("random", 1, 2, [0, 1, 0, 1, 0]),
        ("random", 1, 1, [0, 0, 0, 0, 0]),
        ("correlation", 1, 1, [0, 0, 0, 0, 0]),
    ],
    ids=str,
)
def test_scrolls_of_five_tasks(name: ScrollName, step: int, widths: Any, expected: list[int]) -> None:
    assert chosen(make_scroll_policy(TrainConfig(scroll=name, scroll_step=step)), 5, widths) == expected


@given(seed=st.integers(0, 10**6), blocks=st.integers(2, 6))
def test_random_scrolls_never_stay(seed: int, blocks: int) -> None:
    scrolls = chosen(make_scroll_policy(TrainConfig(scroll="random", seed=seed)), 6, blocks)
    assert all(0 <= scroll < blocks for scroll in scrolls)
    assert all(one != next_one for one, next_one in pairwise(scrolls))


def test_random_scrolls_depend_on_the_seed() -> None:
    seen = {tuple(chosen(make_scroll_policy(TrainConfig(scroll="random", seed=seed)), 6)) for seed in range(4)}
    assert len(seen) > 1


class Told(Correlation):
    """Sees the profiles that it is told."""

    def __init__(self, scrolls: list[int], old: list[list[float]], new: list[float], monkeypatch: Any) -> None:
        super().__init__(scrolls, [torch.tensor(values) for values in old])
        monkeypatch.setattr("slimkern.continual.scroll_policies.profile", lambda net, images: torch.tensor(new))


ONE, ANOTHER, THIRD = [1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("scrolls", "old", "new", "expected"),
    [
        ([0], [ONE], ANOTHER, 2),
        ([0, 2], [ONE, ANOTHER], THIRD, 3),
        ([0, 2], [ONE, ANOTHER], ONE, 0),
        ([0, 2], [ONE, ANOTHER], ANOTHER, 2),
        ([0, 0], [ONE, ONE], ONE, 1),
    ],
    ids=["opposite the only one", "between two", "like the first", "like the last", "like all: on by one"],
)
def test_unlike_tasks_are_ranked_apart(
    monkeypatch: pytest.MonkeyPatch, scrolls: list[int], old: list[list[float]], new: list[float], expected: int
) -> None:
    own = net()
    set_scroll(own, scrolls[-1])
    assert Told(scrolls, old, new, monkeypatch).choose(own, len(scrolls), IMAGES) == expected


def test_overlap_counts_the_sub_networks_that_hold_the_same_blocks() -> None:
    # Blocks of widths 1/4 .. 1 are held by 4, 3, 2 and 1 of 4 sub-networks.
    expected = [30 / 16, 24 / 16, 22 / 16, 24 / 16]
    assert [overlap(Widths.of(4), steps) for steps in range(-4, 4)] == pytest.approx(expected * 2)
    # Of widths 1/4, 1/2 and 1 by 3, 2, 1 and 1 of 3.
    assert overlap(Widths.of([0.25, 0.5, 1.0]), 1) == pytest.approx((3 * 2 + 2 * 1 + 1 * 1 + 1 * 3) / 9)


def test_correlation_is_pearsons() -> None:
    one, other = torch.rand(2, 9, generator=torch.Generator().manual_seed(0))
    assert correlation(one, other) == pytest.approx(np.corrcoef(one, other)[0, 1], abs=1e-9)
    assert correlation(one, -one) == pytest.approx(-1) and correlation(one, torch.ones(9)) == 0


class Positions(nn.Module):
    """Features that are the numbers of the positions."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.arange(8.0).expand(len(images), 8)


def test_profiles_are_in_the_order_of_the_stored_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    own = net().train()
    monkeypatch.setattr("slimkern.continual.scroll_policies.current_scroll", lambda net: 1)
    own.backbone = Positions()  # type: ignore[assignment]
    assert profile(own, IMAGES).tolist() == [6, 7, 0, 1, 2, 3, 4, 5]
    assert own.training


def test_an_unknown_policy_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ConfigError, match="scroll='backwards' is unknown; allowed: constant, none, random"):
        TrainConfig(scroll="backwards")  # type: ignore[arg-type]


@pytest.mark.parametrize("policy", get_args(ScrollName))
def test_a_resumed_run_scrolls_as_an_unbroken_one(policy: ScrollName) -> None:
    config = replace(TINY, tasks=5, epochs=1, scroll=policy, seed=3)
    unbroken = Noting()
    train(config, few_digits(), unbroken)
    scrolls = [facts["scroll"] for kind, facts in unbroken.notes if kind == "scrolled"]
    assert len(scrolls) == 5 and (len(set(scrolls)) == 1) == (policy == "none")
    for stop in (1, 4, 5):
        resumed = Listener()
        train(config, few_digits(), resumed, state=restored(unbroken.checkpoints[stop]))
        assert not differences(restored(unbroken.checkpoints[-1]), restored(resumed.checkpoints[-1]))


def test_the_sample_that_policies_see_is_finite_and_small() -> None:
    seen: list[Tensor] = []

    class Watching(Correlation):
        def choose(self, net: ContinualNet, task: int, images: Tensor) -> int:
            seen.append(images)
            return super().choose(net, task, images)

    run = Trainer(replace(TINY, epochs=1), few_digits(train=400), torch.device("cpu"))
    run.scroll_policy = Watching()
    run.run(Listener())
    assert all(128 <= len(images) <= 256 and math.isfinite(float(images.sum())) for images in seen) and len(seen) == 2
