from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from slimkern.kernels.configurations import ReductionConfiguration
from slimkern.kernels.reduction_plan import SHORTEST_ITEM, Item, Reader, ReductionPlan, Segment, Tile, plan_reduction
from slimkern.kernels.slab_table import SlabTable, frozen, nested, private

TAPS = 9
CONFIGURATION = ReductionConfiguration(4, 16, 32, 64, warps=4, stages=3, registers=128, shared=0)
QUARTERS = (16, 32, 48, 64)
FOUR_WIDTHS = nested(torch.empty(64, 64, 3, 3), QUARTERS, QUARTERS, 16, 32)


def plan(table: SlabTable, pixels: int, items: int) -> ReductionPlan:
    return plan_reduction(table, [row.inputs for row in table], TAPS, CONFIGURATION, pixels, items)


def rows(numbers: np.ndarray, kind: type) -> list:
    assert numbers.dtype == np.int32
    return [kind(*row) for row in numbers.tolist()]


def length(item: Item, segments: list[Segment]) -> int:
    return sum(own.end - own.first for own in segments[item.first : item.end])


tables = st.one_of(
    st.just(FOUR_WIDTHS),
    st.just(nested(torch.empty(40, 24, 3, 3), (8, 24), (16, 40))),
    st.just(private([torch.empty(24, 16, 3, 3), torch.empty(8, 40, 3, 3)], (16, 40))),
    st.sets(st.integers(0, 3)).map(lambda slabs: frozen(FOUR_WIDTHS, tuple(slabs))),
)


@given(tables, st.integers(1, 3000), st.integers(1, 500))
def test_every_tile_sums_every_chunk_of_every_slab_that_holds_it(table: SlabTable, pixels: int, items: int) -> None:
    planned = plan(table, pixels, items)
    work, segments = {item.number: item for item in rows(planned.items, Item)}, rows(planned.segments, Segment)
    places = list(dict.fromkeys(row.weight for row in table))
    used = Counter()
    for tile in rows(planned.tiles, Tile):
        summed = Counter()
        for number in range(tile.first, tile.end):
            used[number] += 1
            item = work[number]
            assert (item.output, item.tap, item.input) == (tile.output, tile.tap, tile.input)
            for own in segments[item.first : item.end]:
                summed.update((own.slab, chunk) for chunk in range(own.first, own.end))
        holders = [
            slab
            for slab, row in enumerate(table)
            if row.gradient
            and row.weight == places[tile.place]
            and row.outputs > tile.output
            and row.inputs > tile.input
        ]
        chunks = -(-pixels // CONFIGURATION.pixels)
        assert summed == Counter((slab, chunk) for slab in holders for chunk in range(chunks))
    assert used == Counter(range(len(work)))


@given(tables)
def test_tiles_cover_every_weight_once(table: SlabTable) -> None:
    tiles = rows(plan(table, 64, 1).tiles, Tile)
    for number, place in enumerate(dict.fromkeys(row.weight for row in table)):
        corners = Counter((tile.output, tile.tap, tile.input) for tile in tiles if tile.place == number)
        ranges = (range(0, place.rows, 32), range(0, TAPS, 4), range(0, place.columns, 16))
        assert corners == Counter((k, tap, c) for k in ranges[0] for tap in ranges[1] for c in ranges[2])


@given(tables, st.integers(1, 30000), st.integers(1, 500))
def test_items_come_longest_first_and_none_is_much_longer_than_asked_for(
    table: SlabTable, pixels: int, items: int
) -> None:
    planned = plan(table, pixels, items)
    segments = rows(planned.segments, Segment)
    lengths = [length(item, segments) for item in rows(planned.items, Item)]
    assert lengths == sorted(lengths, reverse=True)
    assert max(lengths, default=0) <= max(SHORTEST_ITEM, -(-sum(lengths) // items))


def test_four_widths_fill_an_h200_for_about_three_waves() -> None:
    planned = plan(FOUR_WIDTHS, 64 * 32 * 32, 3 * 132)
    assert 3 * 132 <= len(planned.items) <= 1.1 * 3 * 132


def test_frozen_slabs_are_read_by_nobody() -> None:
    planned = plan(frozen(FOUR_WIDTHS, (0, 3)), 4096, 100)
    assert {own.slab for own in rows(planned.segments, Segment)} == {1, 2}
    assert len(rows(planned.readers, Reader)) == 4


def test_slabs_of_one_weight_share_the_place_of_its_bias() -> None:
    table = (replace(FOUR_WIDTHS[0], bias_offset=8), *FOUR_WIDTHS[1:])
    with pytest.raises(ValueError, match="share the place of its bias"):
        plan(table, 64, 1)
