from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimkern.kernels import tile_plan
from slimkern.kernels.tile_plan import TileGrid, TilePlan, plan_tiles

grids = st.lists(st.builds(TileGrid, st.integers(0, 7), st.integers(0, 4), st.integers(1, 9)), max_size=5)
programs = st.integers(1, 12)

FOUR_WIDTHS = [TileGrid(128, share, 9 * share) for share in (1, 2, 3, 4)]


def in_python(given: list[TileGrid], programs: int) -> TilePlan:
    return TilePlan(*tile_plan._in_python(given, programs))


def loads(plan: TilePlan, given: list[TileGrid]) -> list[int]:
    return [sum(given[slab].cost for slab in plan.tiles[start:end, 0]) for start, end in pairwise(plan.starts)]


@given(grids, programs)
def test_every_tile_is_computed_once(given: list[TileGrid], programs: int) -> None:
    plan = plan_tiles(given, programs)
    assert plan.tiles.dtype == plan.starts.dtype == np.int32 and plan.starts.shape == (programs + 1,)
    assert plan.starts[0] == 0 and plan.starts[-1] == len(plan.tiles) and (np.diff(plan.starts) >= 0).all()
    expected = {(slab, *place) for slab, grid in enumerate(given) for place in np.ndindex(*grid[:2])}
    assert len(plan.tiles) == len(expected) and {tuple(tile) for tile in plan.tiles.tolist()} == expected


@given(grids, programs)
def test_no_program_works_longer_than_the_mean_and_a_tile(given: list[TileGrid], programs: int) -> None:
    costs = [grid.cost for grid in given for _ in range(grid.pixel_tiles * grid.channel_tiles)]
    longest = max(costs, default=0) * (1 - 1 / programs)
    assert max(loads(plan_tiles(given, programs), given)) <= sum(costs) / programs + longest + 1e-9


@given(st.lists(st.integers(1, 9), min_size=1, max_size=7), st.integers(1, 3))
def test_few_tiles_are_within_grahams_bound_of_the_best_plan(costs: list[int], programs: int) -> None:
    best = min(
        max(sum(cost for cost, owner in zip(costs, owners, strict=True) if owner == own) for own in range(programs))
        for owners in np.ndindex(*[programs] * len(costs))
    )
    given = [TileGrid(1, 1, cost) for cost in costs]
    assert max(loads(plan_tiles(given, programs), given)) <= best * (4 / 3 - 1 / (3 * programs)) + 1e-9


@given(grids, programs)
def test_each_program_begins_with_its_longest_tiles(given: list[TileGrid], programs: int) -> None:
    plan = plan_tiles(given, programs)
    for start, end in pairwise(plan.starts):
        costs = [given[slab].cost for slab in plan.tiles[start:end, 0]]
        assert costs == sorted(costs, reverse=True)


@pytest.mark.skipif(tile_plan._compiled is None, reason="the native core isn't compiled")
@given(grids, programs)
def test_compiled_and_python_planner_agree(given: list[TileGrid], programs: int) -> None:
    compiled, plain = plan_tiles(given, programs), in_python(given, programs)
    assert compiled.tiles.tolist() == plain.tiles.tolist() and compiled.starts.tolist() == plain.starts.tolist()
    assert (compiled.tiles.dtype, compiled.tiles.shape) == (plain.tiles.dtype, plain.tiles.shape)


@pytest.mark.parametrize("plan", [plan_tiles, in_python], ids=["default", "python"])
def test_channel_tiles_of_one_pixel_tile_run_side_by_side(plan: Callable[..., TilePlan]) -> None:
    planned = plan([TileGrid(4, 2, 5)], 4)
    assert planned.starts.tolist() == [0, 2, 4, 6, 8]
    first_wave, second_wave = planned.tiles[0::2], planned.tiles[1::2]
    assert first_wave[:, 1].tolist() == [0, 0, 1, 1] and second_wave[:, 1].tolist() == [2, 2, 3, 3]


def test_four_widths_are_balanced_over_an_h200() -> None:
    given_loads = loads(plan_tiles(FOUR_WIDTHS, 132), FOUR_WIDTHS)
    assert max(given_loads) / (sum(given_loads) / 132) < 1.1


def test_without_the_native_core_python_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = plan_tiles(FOUR_WIDTHS, 132)
    monkeypatch.setattr(tile_plan, "_compiled", None)
    assert plan_tiles(FOUR_WIDTHS, 132).tiles.tolist() == usual.tiles.tolist()


@pytest.mark.parametrize(
    ("grid", "programs", "message"),
    [
        (TileGrid(1, 1, 1), 0, "programs=0 must lie in 1 to 2147483647"),
        (TileGrid(1, 1, 0), 1, r"grids\[0\] has 1 x 1 tiles of cost 0"),
        (TileGrid(-1, 1, 1), 1, r"grids\[0\] has -1 x 1 tiles of cost 1"),
        (TileGrid(1, 2**31, 1), 1, "counts must lie in 0 to 2147483647"),
        (TileGrid(2**16, 2**16, 1), 1, "grids hold 4294967296 tiles together"),
    ],
    ids=["no program", "no cost", "negative", "too wide", "too many"],
)
def test_what_cannot_be_planned(grid: TileGrid, programs: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_tiles([grid], programs)
