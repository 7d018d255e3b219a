from __future__ import annotations

import math
import time
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from slimkern.continual.selection import SelectionName, herding, select


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def check_greedy(features: Tensor, chosen: list[int]) -> None:
    """Every pick comes as close to the mean as any candidate left (algorithm 4 of iCaRL); of equals, any will do."""
    vectors = features.double().numpy()
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    mean, left = vectors.mean(0), set(range(len(vectors)))
    for k, pick in enumerate(chosen, 1):
        before = vectors[chosen[: k - 1]].sum(0)
        away = {at: np.linalg.norm(mean - (before + vectors[at]) / k) for at in left}
        assert away[pick] <= min(away.values()) + 1e-12
        left.remove(pick)


@given(seed=st.integers(0, 1000), candidates=st.integers(1, 30), channels=st.integers(2, 8), data=st.data())
def test_herding_chooses_as_a_loop_over_all_candidates(
    seed: int, candidates: int, channels: int, data: st.DataObject
) -> None:
    count = data.draw(st.integers(0, candidates))
    features = randn(candidates, channels, seed=seed).double()
    chosen = herding(features, count).tolist()
    assert len(chosen) == count
    check_greedy(features, chosen)


def test_herding_forgets_the_length_of_features() -> None:
    features = randn(20, 4)
    lengths = torch.arange(1.0, 21)[:, None]
    assert torch.equal(herding(features, 7), herding(features * lengths, 7))


def test_the_mean_of_the_chosen_comes_close_to_that_of_all() -> None:
    features = torch.nn.functional.normalize(randn(500, 16) + 1)
    away = [(features[herding(features, count)].mean(0) - features.mean(0)).norm().item() for count in (1, 10, 100)]
    at_random = (features[:100].mean(0) - features.mean(0)).norm().item()
    assert away[0] > 5 * away[1] > 25 * away[2] and at_random > 10 * away[2]


def test_herding_of_10000_candidates_takes_less_than_a_second() -> None:
    features, seconds = randn(10_000, 512), []
    for _ in range(3):
        start = time.perf_counter()
        assert len(herding(features, 100).unique()) == 100
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1


PROBABILITIES = torch.tensor([[0.98, 0.01, 0.01], [0.4, 0.3, 0.3], [0.6, 0.4, 1e-9], [0.5, 0.5, 1e-9]])


def test_entropy_takes_the_least_certain_first() -> None:
    entropies = [-sum(p * math.log(p) for p in row) for row in PROBABILITIES.tolist()]
    expected = sorted(range(4), key=lambda at: -entropies[at])
    for count in range(5):
        assert select("entropy", randn(4, 2), PROBABILITIES.log(), 0, count).tolist() == expected[:count]


def test_distance_takes_the_smallest_logit_of_the_own_class_first() -> None:
    logits = torch.tensor([[9.0, 3.0], [0.0, -1.0], [5.0, 2.0], [-4.0, 7.0]])
    assert select("distance", randn(4, 2), logits, 1, 3).tolist() == [1, 2, 0]
    assert select("distance", randn(4, 2), logits, 0, 3).tolist() == [3, 1, 2]


def test_random_is_drawn_from_the_global_generator() -> None:
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(select("random", randn(50, 2), randn(50, 3), 0, 10).tolist())
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 10 and set(drawn[0]) <= set(range(50))


@pytest.mark.parametrize("rule", ["herding", "random", "entropy", "distance"])
@pytest.mark.parametrize("count", [0, 1, 12])
def test_each_rule_chooses_that_many_different_images(rule: SelectionName, count: int) -> None:
    chosen = select(rule, randn(12, 4), randn(12, 3), 1, count)
    assert chosen.dtype == torch.int64 and len(set(chosen.tolist())) == count


@pytest.mark.parametrize("count", [-1, 4])
def test_more_than_there_are_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} of 3 images can't be chosen"):
        select("herding", randn(3, 2), randn(3, 2), 0, count)


def test_an_unknown_rule_is_refused_with_the_allowed_ones() -> None:
    with pytest.raises(ValueError, match="unknown selection 'best'; allowed: herding, random, entropy, distance"):
        select(cast(Any, "best"), randn(3, 2), randn(3, 2), 0, 1)
