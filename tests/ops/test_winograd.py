from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from slimkern.ops import native, winograd

pytestmark = pytest.mark.skipif(native.why_unavailable("cpu") is not None, reason=str(native.why_unavailable("cpu")))
FITTING = ((1, 1), (1, 1), (1, 1))


def by_definition(images: Tensor, weight: Tensor, bias: Tensor, added: Tensor | None) -> Tensor:
    """In float64, tap by tap."""
    *_, height, width = images.shape
    padded = torch.nn.functional.pad(images.double(), (1, 1, 1, 1))
    result = bias.double()[:, None, None].repeat(images.shape[0], 1, height, width)
    for y in range(3):
        for x in range(3):
            seen = padded[:, :, y : y + height, x : x + width]
            result = result + torch.einsum("oi,nihw->nohw", weight[:, :, y, x].double(), seen)
    return (result if added is None else result + added.double()).clamp(min=0)


@pytest.mark.parametrize("adds", [False, True], ids=["alone", "shortcut"])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 1), (2, 3, 4, 6, 5), (1, 70, 65, 3, 8), (3, 17, 33, 7, 7)], ids=str)
def test_it_is_a_convolution(shape: tuple[int, ...], adds: bool) -> None:
    count, inputs, outputs, height, width = shape
    random = torch.Generator().manual_seed(0)
    images = torch.randn(count, inputs, height, width, generator=random)
    weight = torch.randn(outputs, inputs, 3, 3, generator=random) / (3 * inputs**0.5)
    bias = torch.randn(outputs, generator=random)
    added = torch.randn(count, outputs, height, width, generator=random) if adds else None
    found = winograd.convolved_and_rectified(images, winograd.transformed(weight), bias, added)
    assert found.is_contiguous(memory_format=torch.channels_last) and found.dtype == torch.float32
    torch.testing.assert_close(found.double(), by_definition(images, weight, bias, added), rtol=1e-5, atol=1e-5)


def test_wide_sums_lose_few_digits() -> None:
    random = torch.Generator().manual_seed(1)
    images, weight = torch.randn(4, 128, 8, 8, generator=random), torch.randn(128, 128, 3, 3, generator=random) / 34
    found = winograd.convolved_and_rectified(images, winograd.transformed(weight), bias := torch.zeros(128))
    truth = by_definition(images, weight, bias, None)
    assert (found - truth).abs().max() < 8 * torch.finfo(torch.float32).eps * truth.max()


@pytest.mark.parametrize(
    ("weight", "geometry"),
    [
        (torch.ones(64, 64, 3, 3), ((2, 2), (1, 1), (1, 1))),
        (torch.ones(64, 64, 3, 3), ((1, 1), (0, 0), (1, 1))),
        (torch.ones(64, 64, 3, 3), ((1, 1), "same", (1, 1))),
        (torch.ones(64, 64, 3, 3), ((1, 1), (1, 1), (2, 2))),
        (torch.ones(64, 64, 1, 1), FITTING),
        (torch.ones(63, 64, 3, 3), FITTING),
        (torch.ones(64, 63, 3, 3), FITTING),
        (torch.ones(64, 64, 3, 3, dtype=torch.float64), FITTING),
        (torch.ones(64, 64, 3, 3, device="meta"), FITTING),
    ],
    ids=["stride", "padding", "same", "dilation", "taps", "few outputs", "few inputs", "dtype", "device"],
)
def test_it_pays_for_wide_plain_convolutions_alone(weight: Tensor, geometry: tuple) -> None:
    assert winograd.pays(torch.ones(64, 64, 3, 3), *FITTING)
    assert not winograd.pays(weight, *geometry)


def test_without_compiled_kernels_it_never_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "why_unavailable", lambda device: "not here")
    assert not winograd.pays(torch.ones(64, 64, 3, 3), *FITTING)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda ops: ops.winograd_scatter(torch.ones(1, 2, 3)), "images must be float32 with 4 axes"),
        (lambda ops: ops.winograd_scatter(torch.ones(1, 2, 3, 3).double()), "images must be float32 with 4 axes"),
        (lambda ops: ops.winograd_scatter(torch.ones(1, 2, 3, 3)), "images must be packed"),
        (lambda ops: ops.winograd_gather(torch.ones(16, 3, 2), torch.ones(2), None, 1, 4, 4), "products must be"),
        (lambda ops: ops.winograd_gather(torch.ones(16, 4, 2), torch.ones(3), None, 1, 4, 4), "bias must be"),
        (lambda ops: ops.winograd_gather(torch.ones(16, 4, 2), torch.ones(2), None, 0, 4, 4), "there must be images"),
        (
            lambda ops: ops.winograd_gather(torch.ones(16, 4, 2), torch.ones(2), torch.ones(1, 2, 4, 3), 1, 4, 4),
            "added must be packed, of the results' shape",
        ),
    ],
    ids=["rank", "dtype", "layout", "tiles", "bias", "no images", "added"],
)
def test_the_kernels_refuse_what_does_not_fit(call: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        call(torch.ops.slimkern_native)
