from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimkern.widths import Widths, pieces


@pytest.mark.parametrize(
    ("given", "shares", "fractions"),
    [
        (4, (1, 2, 3, 4), (0.25, 0.5, 0.75, 1.0)),
        (1, (1,), (1.0,)),
        ((0.25, 0.5, 1.0), (1, 2, 4), (0.25, 0.5, 1.0)),
        ([0.5, 1], (1, 2), (0.5, 1.0)),
        ((0.3333333, 0.75, 1.0), (4, 9, 12), (1 / 3, 0.75, 1.0)),
        (Widths((1, 3)), (1, 3), (1 / 3, 1.0)),
    ],
    ids=str,
)
def test_of(given: Any, shares: tuple[int, ...], fractions: tuple[float, ...]) -> None:
    widths = Widths.of(given)
    assert widths.shares == shares
    assert widths.fractions == fractions
    assert widths.blocks == shares[-1]


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (0, ValueError, "widths=0: the number of sub-networks must be at least 1"),
        ((), ValueError, "must ascend and end in 1.0"),
        ((1.0, 0.5), ValueError, r"widths=\(1.0, 0.5\): must ascend"),
        ((0.5, 0.5, 1.0), ValueError, "must ascend"),
        ((0.25, 0.5), ValueError, "end in 1.0"),
        ((0.0, 1.0), ValueError, r"width 0.0 is outside \(0, 1\]"),
        ((0.5, 1.5), ValueError, r"width 1.5 is outside \(0, 1\]"),
        ((0.00012345, 1.0), ValueError, "width 0.00012345 is no fraction with a denominator up to 1024"),
        (("0.5", 1.0), TypeError, r"a width must be a number in \(0, 1\], not '0.5'"),
        ((True,), TypeError, "not True"),
        (True, TypeError, "must be a whole number or a sequence of fractions, not True"),
        ("4", TypeError, "not '4'"),
        (0.5, TypeError, "not 0.5"),
        (None, TypeError, "not None"),
    ],
    ids=str,
)
def test_of_refuses(given: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Widths.of(given)


def test_index_finds_a_width_and_lists_the_others() -> None:
    widths = Widths.of(3)
    assert [widths.index(width) for width in (0.3333333, 2 / 3, 1)] == [0, 1, 2]
    with pytest.raises(ValueError, match=r"width 0.5 is none of this network's widths \(0.33.*, 0.66.*, 1.0\)"):
        widths.index(0.5)


def test_channels_and_offset_count_in_blocks() -> None:
    widths = Widths.of((0.25, 0.5, 1.0))
    assert [widths.channels(8, width) for width in widths.fractions] == [2, 4, 8]
    assert widths.counts(8, widths.fractions) == [2, 4, 8] and widths.counts(8, [1.0, 0.25]) == [8, 2]
    assert widths.places(widths.fractions) == [0, 1, 2] and widths.places([1.0, 0.25]) == [2, 0]
    assert [widths.offset(8, scroll) for scroll in range(6)] == [0, 2, 4, 6, 0, 2]


def test_check_divide_names_the_axis_and_the_remedy() -> None:
    Widths.of(4).check_divide(12, "channels")
    with pytest.raises(ValueError, match=r"channels=10 can't be cut into the 4 blocks .* a multiple of 4, or else"):
        Widths.of(4).check_divide(10, "channels", ", or else")


@given(st.data())
def test_pieces_walk_a_rotated_axis(data: st.DataObject) -> None:
    total = data.draw(st.integers(1, 12), label="total")
    offset = data.draw(st.integers(0, total - 1), label="offset")
    count = data.draw(st.integers(1, total), label="count")
    stretches = pieces(offset, count, total)
    positions = [position for own, _ in stretches for position in range(total)[own]]
    channels = [channel for _, stored in stretches for channel in range(total)[stored]]
    assert positions == list(range(count))
    assert channels == [(position + offset) % total for position in positions]
    assert len(stretches) <= 2
