from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from slimkern.continual.config import TrainConfig
from slimkern.continual.seeding import seed_for
from slimkern.continual.training import Trainer
from tests.continual.few_digits import TINY, few_digits

numbers = st.integers(0, 2**32 - 1)


def drawn(*place: int) -> list[float]:
    seed_for(*place)
    return torch.rand(4).tolist()


@given(seed=numbers, place=st.lists(numbers, max_size=3), between=numbers)
def test_a_place_draws_the_same_whatever_was_drawn_before(seed: int, place: list[int], between: int) -> None:
    first = drawn(seed, *place)
    drawn(between)
    assert drawn(seed, *place) == first


@given(one=st.tuples(numbers, numbers, numbers), other=st.tuples(numbers, numbers, numbers))
def test_two_places_draw_differently(one: tuple[int, int, int], other: tuple[int, int, int]) -> None:
    assert (drawn(*one) == drawn(*other)) == (one == other)


def test_the_network_of_a_run_is_its_seeds() -> None:
    def weights(config: TrainConfig, drawn_before: int) -> list[float]:
        torch.manual_seed(drawn_before)
        trainer = Trainer(config, few_digits(), torch.device("cpu"))
        return trainer.net.backbone.conv1.weight.flatten().tolist()

    other_seed = TrainConfig(**{**vars(TINY), "seed": 1})
    assert weights(TINY, drawn_before=5) == weights(TINY, drawn_before=6)
    assert weights(TINY, drawn_before=5) != weights(other_seed, drawn_before=5)
