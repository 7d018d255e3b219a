from __future__ import annotations

from math import gcd

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from slimkern.kernels.geometry import Geometry

pytest.importorskip("triton")

from slimkern.kernels import scroll_conv2d_rows as rows
from slimkern.kernels.slab_table import frozen, nested

FIELDS = {"kernel": (1, 5), "stride": (1, 4), "padding": (0, 4), "dilation": (1, 3)}
geometries = st.fixed_dictionaries(
    {name: st.tuples(st.integers(*limits), st.integers(*limits)) for name, limits in FIELDS.items()}
).map(lambda fields: Geometry(**fields))


@given(geometries, st.integers(1, 12))
def test_every_input_pixel_meets_each_result_that_it_is_part_of_once(geometry: Geometry, side: int) -> None:
    stride, padding, dilation = geometry.stride[0], geometry.padding[0], geometry.dilation[0]
    sides = range(geometry.result((side, side))[0])
    meetings = sorted(
        (result * stride - padding + tap * dilation, tap, result)
        for result in sides
        for tap in range(geometry.kernel[0])
        if 0 <= result * stride - padding + tap * dilation < side
    )
    walk = rows.backward_walk(geometry, 0)
    met = []
    for grid in rows.backward_grids(geometry, (side, side), 0):
        for place in range(grid.size):
            for number in range(grid.taps):
                source = place * walk.scale + grid.shift + number * walk.step
                if source in sides:
                    met.append((place * walk.spread + grid.start, grid.tap + number * walk.tap_step, source))
    assert sorted(met) == meetings


@given(geometries, st.integers(1, 12))
def test_the_grids_of_an_input_gradient_cover_every_pixel_once(geometry: Geometry, side: int) -> None:
    walk = rows.backward_walk(geometry, 1)
    grids = rows.backward_grids(geometry, (side, side), 1)
    covered = sorted(grid.start + walk.spread * place for grid in grids for place in range(grid.size))
    assert covered == list(range(side))
    assert walk.step == -geometry.dilation[1] // gcd(geometry.stride[1], geometry.dilation[1])


def test_frozen_slabs_have_no_rows_of_an_input_gradient() -> None:
    table = frozen(nested(torch.empty(16, 16, 3, 3), (8, 16), (8, 16)), [0])
    found = rows.backward_rows(table, Geometry((3, 3), (2, 2), (1, 1)), (8, 8))
    assert [row.result for row in found] == [1] * 4
    assert [(row.tap_rows, row.tap_columns) for row in found] == [(1, 1), (1, 2), (2, 1), (2, 2)]


def test_only_numbers_that_are_multiples_of_it_are_aligned() -> None:
    weight = torch.empty(48, 24, 1, 1).contiguous(memory_format=torch.channels_last)
    image = (4, 4)
    for offset, alignment in ((0, 8), (8, 8), (4, 4), (3, 1)):
        table = nested(weight, (8, 24), (16, 48), offset)
        assert rows.alignment(rows.forward_rows(table, Geometry((1, 1)), image, (8, 24))) == alignment
