from __future__ import annotations

from collections import Counter

import pytest

from slimkern.continual.width_choice import sandwiches
from slimkern.widths import Widths

EIGHT = Widths.of(8)


@pytest.mark.parametrize("count", [2, 3, 4, 8])
def test_the_narrowest_and_the_widest_are_always_there(count: int) -> None:
    for choice in sandwiches(EIGHT, count, 20, 0):
        assert len(choice) == len(set(choice)) == count and list(choice) == sorted(choice)
        assert (choice[0], choice[-1]) == (1 / 8, 1.0) and set(choice) <= set(EIGHT.fractions)


def test_the_others_take_turns_evenly() -> None:
    drawn = Counter(width for choice in sandwiches(EIGHT, 4, 3000, 0) for width in choice[1:-1])
    assert set(drawn) == set(EIGHT.fractions[1:-1]) and all(900 < count < 1100 for count in drawn.values())


def test_a_place_of_a_run_has_its_own_choices() -> None:
    one, again, later, other = (sandwiches(EIGHT, 4, 20, *place) for place in ((0, 1), (0, 1), (0, 2), (1, 1)))
    assert one == again and one != later and one != other
