"""Which multiprocessor computes which tiles of a launch whose slabs differ in size."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from slimkern.shared_objects import build_module

_LARGEST = 2**31 - 1


class TileGrid(NamedTuple):
    """The tiles of one slab's output.

    Attributes:
        pixel_tiles: tiles along the pixels (images, rows and columns); 0 for a slab that needs nothing.
        channel_tiles: tiles along the channels.
        cost: work of one tile in any unit that the grids of a launch share, such as iterations over its inputs.
    """

    pixel_tiles: int
    channel_tiles: int
    cost: int


@dataclass(frozen=True, eq=False)
class TilePlan:
    """The tiles that each program of a launch computes, in their order.

    Attributes:
        tiles: int32 [T, 3], (slab, pixel tile, channel tile), those of program 0 first.
        starts: int32 [programs + 1]; program p computes ``tiles[starts[p] : starts[p + 1]]``.
    """

    tiles: NDArray[np.int32]
    starts: NDArray[np.int32]


def plan_tiles(grids: Sequence[TileGrid], programs: int) -> TilePlan:
    """Share out all tiles: longest first, each to the program with the least work so far (Graham 1969, "LPT").

    The last program ends at most 4/3 - 1/(3 programs) times later than in the best plan. Every program begins with its
    longest tiles. Tiles of equal cost go round the programs by slab, pixel tile and channel tile, so that tiles which
    read the same pixels run at about the same time, while those are in the cache. Equal arguments give equal plans.

    Args:
        grids: one a slab.
        programs: programs that run side by side, as a rule one for each multiprocessor.

    Raises:
        ValueError: ``programs`` or a cost is below 1, a count is negative, or a number doesn't fit into 31 bits.
    """
    if not 1 <= programs <= _LARGEST:
        raise ValueError(f"programs={programs} must lie in 1 to {_LARGEST}")
    for slab, (pixel_tiles, channel_tiles, cost) in enumerate(grids):
        if not (0 <= pixel_tiles <= _LARGEST and 0 <= channel_tiles <= _LARGEST and 1 <= cost <= _LARGEST):
            raise ValueError(
                f"grids[{slab}] has {pixel_tiles} x {channel_tiles} tiles of cost {cost}; counts must lie in 0 to "
                f"{_LARGEST} and costs in 1 to {_LARGEST}"
            )
    total = sum(pixel_tiles * channel_tiles for pixel_tiles, channel_tiles, _ in grids)
    if total > _LARGEST:
        raise ValueError(f"grids hold {total} tiles together; at most {_LARGEST} can be planned")
    return TilePlan(*(_compiled or _in_python)(grids, programs))


def _in_python(grids: Sequence[TileGrid], programs: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """`tiles` and `starts`; what the compiled planner computes, only slower."""
    by_cost = sorted(range(len(grids)), key=lambda slab: -grids[slab][2])
    longest_first = np.concatenate([np.empty((0, 3), np.int32), *(_tiles_of(slab, grids[slab]) for slab in by_cost)])
    costs = [grids[slab][2] for slab in by_cost for _ in range(grids[slab][0] * grids[slab][1])]
    loads = [(0, program) for program in range(programs)]  # a heap already
    owners = np.empty(len(costs), np.int64)
    for place, cost in enumerate(costs):
        load, program = loads[0]
        owners[place] = program
        heapq.heapreplace(loads, (load + cost, program))
    starts = np.concatenate([[0], np.bincount(owners, minlength=programs).cumsum()])
    return longest_first[owners.argsort(kind="stable")], starts.astype(np.int32)


def _tiles_of(slab: int, grid: TileGrid) -> NDArray[np.int32]:
    pixel, channel = np.indices(grid[:2], np.int32).reshape(2, -1)
    return np.stack([np.full_like(pixel, slab), pixel, channel], axis=1)


try:
    _compiled = getattr(build_module(), "plan_tiles", None)
except ImportError:  # what was compiled can't be loaded
    _compiled = None
