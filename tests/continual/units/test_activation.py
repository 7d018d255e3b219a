from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from slimkern.continual.units.activation import in_batches, wake


def test_the_unit_with_the_nearest_threshold_wakes_for_the_whole_batch() -> None:
    confidences = torch.tensor([[0.2, 0.5], [0.4, 0.5], [0.9, 0.21], [0.0, 0.0]])
    thresholds = torch.tensor([0.3, 0.2])
    assert wake(confidences, thresholds, torch.tensor([0, 0, 1, 2])).tolist() == [0, 0, 1, 1]
    assert wake(confidences, thresholds, torch.arange(4)).tolist() == [0, 0, 1, 1]
    assert wake(confidences[:0], thresholds, torch.arange(0)).tolist() == []


@given(kinds=st.lists(st.integers(0, 3), min_size=1, max_size=60), size=st.integers(1, 20))
def test_batches_are_of_one_kind_and_as_large_as_can_be(kinds: list[int], size: int) -> None:
    of = torch.tensor(kinds)
    batches = in_batches(of, size)
    for kind in set(kinds):
        own = batches[of == kind]
        assert not set(own.tolist()) & set(batches[of != kind].tolist())
        sizes = sorted(own.unique(return_counts=True)[1].tolist(), reverse=True)
        assert sizes[:-1] == [size] * (len(sizes) - 1) and sum(sizes) == len(own) and sizes[0] <= size
    assert sorted(batches.unique().tolist()) == list(range(int(batches.max()) + 1))


def test_batches_depend_on_the_seed() -> None:
    dealt = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        dealt.append(in_batches(torch.zeros(50, dtype=torch.int64), 5))
    assert torch.equal(dealt[0], dealt[1]) and not torch.equal(dealt[0], dealt[2])
    assert pytest.approx(5.0) == dealt[0].bincount().double().mean().item()
