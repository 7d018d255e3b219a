from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from slimkern.kernels.geometry import Geometry
from slimkern.kernels.launch import Unsuitable
from slimkern.kernels.scroll_conv2d import forward
from slimkern.widths import Widths
from tests.kernels.interpreted.nested_widths import EVERY_SCROLL, ODD, Case, check, tile

SMALL = tile(32, 16, 16, boxes=True)
WIDE = tile(64, 64, 16, boxes=True)  # channels come first in the matrix product
THREE = Geometry((3, 3), padding=(1, 1))

CASES = {
    "channels_first": Case(image=(8, 8), configuration=WIDE),
    "several_images_a_box": Case(image=(4, 2), batch=5, configuration=WIDE),
    "depth_beyond_the_slab": Case((8, 24), (8, 24), (24, 24), image=(4, 4), configuration=tile(16, 16, 32, boxes=True)),
    "one_pixel": Case(image=(1, 1), batch=3, configuration=SMALL),
    "stride_2": Case(image=(8, 8), batch=3, geometry=THREE._replace(stride=(2, 2)), configuration=SMALL),
    "one_by_one_stride_2": Case(image=(8, 8), geometry=Geometry((1, 1), (2, 2)), configuration=SMALL),
    "stride_2_dilation_2": Case(image=(8, 8), geometry=Geometry((3, 3), (2, 2), (2, 2), (2, 2)), configuration=SMALL),
    "stride_3": Case(image=(12, 12), geometry=THREE._replace(stride=(3, 3)), configuration=WIDE),
    "even_kernel": Case(
        image=(8, 8), geometry=Geometry((1, 2), (2, 1), (0, 1), (1, 2)), configuration=tile(32, 16, 8, boxes=True)
    ),
    "float16": Case(image=(4, 4), dtype=torch.float16, configuration=SMALL),
}


@pytest.mark.parametrize(("widths", "scroll"), EVERY_SCROLL.values(), ids=EVERY_SCROLL.keys())
def test_every_scroll_in_place(widths: Widths, scroll: int) -> None:
    case = Case.at(widths, scroll, (16, 16), image=(4, 4), batch=1 + scroll % 3, geometry=Geometry((1, 1)))
    if widths.blocks > 4:  # many boxes: along one axis at a time
        rows, columns = case.channels
        if scroll % 2:
            case = replace(
                case, outputs=(16,) * len(case.outputs), channels=(16, columns), offsets=(0, case.offsets[1])
            )
        else:
            case = replace(case, inputs=(16,) * len(case.inputs), channels=(rows, 16), offsets=(case.offsets[0], 0))
    check(replace(case, configuration=tile(32, 16, 16, boxes=True)))


@pytest.mark.parametrize(("widths", "scroll"), EVERY_SCROLL.values(), ids=EVERY_SCROLL.keys())
def test_every_scroll_packed(widths: Widths, scroll: int) -> None:
    geometry = Geometry((1, 3), (1 + scroll % 2, 1 + scroll % 2), (0, 1))
    case = Case.at(widths, scroll, in_place=False, image=(4, 8), batch=(1, 3)[scroll // 2 % 2], geometry=geometry)
    check(replace(case, configuration=tile(32, 64, 64, boxes=True)))


@pytest.mark.parametrize("in_place", [True, False], ids=["in_place", "packed"])
@pytest.mark.parametrize(("side", "stride"), ODD["forward"])
def test_odd_images(side: int, stride: int, in_place: bool) -> None:
    case = Case(image=(side, side), batch=1 + 2 * in_place, geometry=ODD["forward"][side, stride], in_place=in_place)
    check(replace(case, configuration=tile(256, 16, 16, boxes=True)), ["forward"])


@pytest.mark.parametrize("in_place", [True, False], ids=["in_place", "packed"])
@pytest.mark.parametrize(("side", "odd"), ODD["input gradient"])
def test_gradients_of_odd_results(side: int, odd: int, in_place: bool) -> None:
    case = Case(
        image=(side, side), batch=3 - 2 * in_place, geometry=ODD["input gradient"][side, odd], in_place=in_place
    )
    assert odd in case.geometry.result(case.image)
    check(replace(case, configuration=tile(256, 16, 16, boxes=True)), ["input gradient"])


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_shapes(case: Case) -> None:
    check(case)


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        pytest.param(Case(image=(7, 8)), r"powers of two, not \[\(7, 8\)\]", id="odd_image"),
        pytest.param(Case(image=(1, 64)), "boxes of 32 pixels", id="rows_longer_than_a_tile"),
        pytest.param(Case(image=(8, 8), layout=torch.contiguous_format), "side by side", id="contiguous_weight"),
        pytest.param(Case((4, 8), (4, 8), (8, 8), image=(8, 8)), "multiples of 8", id="narrow_slabs"),
        pytest.param(
            Case(image=(1, 8), geometry=Geometry((1, 1), (2, 2))),
            "every 2th row .* images of",
            id="fewer_rows_than_the_stride",
        ),
        pytest.param(Case(image=(8, 8), offsets=(8, 8)), "would wrap around", id="blocks_narrower_than_boxes"),
    ],
)
def test_refuses_what_boxes_cannot_read(case: Case, reason: str) -> None:
    slabs, weight, _ = case.tensors()
    table, read = case.launch(weight)
    with pytest.raises(Unsuitable, match=reason):
        forward(slabs, [read], None, table, case.geometry, SMALL)
