from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from slimkern.kernels.configurations import Configuration
from slimkern.kernels.geometry import Geometry, Pair
from slimkern.kernels.scroll_conv2d_stem import forward_shared, takes
from slimkern.kernels.slab_table import nested, private
from slimkern.ops import scroll_conv2d
from slimkern.widths import Widths
from tests.kernels.interpreted.guards import Guarded, surrounded
from tests.kernels.interpreted.nested_widths import EVERY_SCROLL_OF_A_SHAPE, SHAPES, TOLERANCE, random
from tests.ops.truth import assert_near

TILE = Configuration(pixels=64, channels=32, depth=32, warps=4, stages=1, registers=255, shared=64 * 1024)
LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
OUTPUTS = (8, 16, 24, 32)


def tensors(channels: int, image: Pair, kernel: Pair, layout: torch.memory_format) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    weight = torch.randn(OUTPUTS[-1], channels, *kernel).contiguous(memory_format=layout)
    slab = torch.randn(3, channels, *image).contiguous(memory_format=layout)
    return surrounded(slab), surrounded(weight), surrounded(torch.randn(OUTPUTS[-1]))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("scroll", [0, 3])
@pytest.mark.parametrize(
    ("channels", "image", "geometry"),
    [
        pytest.param(3, (7, 9), Geometry((3, 3), padding=(1, 1)), id="three_channels"),
        pytest.param(1, (8, 8), Geometry((7, 5), (2, 2), (3, 2), (1, 2)), id="one_channel_large_kernel"),
        pytest.param(16, (3, 3), Geometry((1, 1)), id="sixteen_channels"),
    ],
)
def test_equals_the_reference(
    channels: int, image: Pair, geometry: Geometry, scroll: int, layout: torch.memory_format
) -> None:
    slab, weight, bias = tensors(channels, image, geometry.kernel, layout)
    offset = 8 * scroll
    table = nested(weight, [channels], OUTPUTS, offset)
    assert takes(table)
    with Guarded():
        results, _ = forward_shared(slab, weight, bias, table, geometry, TILE)
    truths = scroll_conv2d([slab.double()], weight.double(), bias.double(), OUTPUTS, offset, 0, *geometry[1:])
    for place, (result, true) in enumerate(zip(results, truths, strict=True)):
        assert_near(f"result {place}", result, true, 1e-5)
        assert result.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("number", "widths", "scroll"), EVERY_SCROLL_OF_A_SHAPE)
def test_every_scroll(number: int, widths: Widths, scroll: int) -> None:
    side, batch, stride = SHAPES[number % len(SHAPES)]
    dtype = (torch.float32, torch.float16, torch.bfloat16)[number % 5 % 3]
    rows, geometry = 8 * widths.blocks, Geometry((3, 3), (stride, stride), (1, 1))
    slab, weight = random(batch, 3, side, side, dtype=dtype), random(rows, 3, 3, 3, dtype=dtype)
    outputs, offset = [8 * share for share in widths.shares], widths.offset(rows, scroll)
    with Guarded():
        results, moments = forward_shared(
            slab, weight, None, nested(weight, [3], outputs, offset), geometry, replace(TILE, pixels=1024), moments=True
        )
    assert moments is not None
    truths = scroll_conv2d([slab.double()], weight.double(), None, outputs, offset, 0, *geometry[1:])
    for result, true in zip(results, truths, strict=True):
        assert_near("result", result, true, TOLERANCE[dtype])


def test_moments_of_the_results() -> None:
    geometry = Geometry((3, 3), padding=(1, 1))
    slab, weight, bias = tensors(3, (5, 5), (3, 3), torch.channels_last)
    results, moments = forward_shared(slab, weight, bias, nested(weight, [3], OUTPUTS), geometry, TILE, moments=True)
    assert moments is not None
    count, mean, squares = moments.double()
    pixelwise = torch.cat([result.double().movedim(1, -1).flatten(0, 2) for result in results], 1)
    total = (count * mean).sum(0) / len(pixelwise)
    assert (count.sum(0) == len(pixelwise)).all()
    assert_near("mean", total, pixelwise.mean(0), 1e-5)
    variance = (squares + count * (mean - total).square()).sum(0) / len(pixelwise)
    assert_near("variance", variance, pixelwise.var(0, unbiased=False), 1e-5)


def test_takes_nested_widths_of_one_input_alone() -> None:
    weights = [torch.zeros(8, 3, 3, 3), torch.zeros(8, 3, 3, 3)]
    assert not takes(private(weights, [3]))
    assert not takes(nested(weights[0], [3, 3], [4, 8]))
    assert takes(nested(weights[0], [3], [4, 8]))
