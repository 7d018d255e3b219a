from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import nn

from slimkern import ScrollConv2d, WidthBatch, at_width, every_width

PLAIN: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "plain": ((4, 8, 3), {}),
    "stride_2": ((4, 8, 3, 2, 1), {}),
    "rectangular": ((4, 8, (1, 3), (2, 1), (0, 2), (1, 2)), {}),
    "groups": ((8, 8, 3), {"groups": 4, "padding": 1}),
    "depthwise": ((8, 8, 3), {"groups": 8, "padding": 1}),
    "no_bias": ((4, 8, 1), {"bias": False}),
    "same": ((4, 8, 3), {"padding": "same"}),
    "same_even_kernel": ((4, 8, (2, 4)), {"padding": "same"}),
    "valid": ((4, 8, 3), {"padding": "valid"}),
    "reflect": ((4, 8, 3), {"padding": (1, 2), "padding_mode": "reflect"}),
    "replicate": ((4, 8, 3), {"padding": 1, "padding_mode": "replicate"}),
    "circular_same_even_kernel": ((4, 8, 4), {"padding": "same", "padding_mode": "circular"}),
}
every_plain = pytest.mark.parametrize(("arguments", "options"), PLAIN.values(), ids=PLAIN.keys())


def images(channels: int) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(2, channels, 7, 6, dtype=torch.float64)


def slabs(layer: ScrollConv2d) -> WidthBatch:
    whole = images(layer.in_channels)
    counts = [layer.widths.channels(layer.in_channels, width) for width in layer.widths.fractions]
    return WidthBatch([whole[:, :count] for count in counts], layer.widths.fractions)


def scrolled(layer: ScrollConv2d, scroll: int) -> ScrollConv2d:
    layer.scroll = scroll
    return layer.double()


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@every_plain
def test_at_width_one_and_scroll_zero_is_the_parent(arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(*arguments, **options)
    torch.manual_seed(0)
    layer = ScrollConv2d(*arguments, **options, widths=2)
    assert torch.equal(plain.weight, layer.weight)
    x = images(plain.in_channels).float()
    assert torch.equal(plain(x), layer(x))
    layer.whole_in = True
    torch.testing.assert_close(layer(at_width(x, 1.0)).at(1.0), plain(x))


@pytest.mark.parametrize("scroll", [0, 1, 3])
@every_plain
def test_every_slab_is_its_extracted_sub_network(
    arguments: tuple[Any, ...], options: dict[str, Any], scroll: int
) -> None:
    layer = scrolled(ScrollConv2d(*arguments, **options, widths=4), scroll)
    given = slabs(layer)
    for (width, result), slab in zip(layer(given), given.slabs, strict=True):
        small = layer.extract(width)
        assert type(small) is nn.Conv2d
        torch.testing.assert_close(result, small(slab), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(layer(images(layer.in_channels)), layer.extract(1.0)(images(layer.in_channels)))


def test_whole_axes_are_never_cut_or_scrolled() -> None:
    stem = scrolled(ScrollConv2d(4, 8, 3, whole_in=True), 1)
    results = stem(every_width(images(4)))
    assert [slab.shape[1] for slab in results.slabs] == [2, 4, 6, 8]
    assert stem.bias is not None
    whole = nn.functional.conv2d(images(4), stem.weight.roll(-2, 0), stem.bias.roll(-2))
    for _, slab in results:
        torch.testing.assert_close(slab, whole[:, : slab.shape[1]], rtol=1e-10, atol=1e-12)
    last = scrolled(ScrollConv2d(8, 4, 1, whole_out=True), 1)
    expected = nn.functional.conv2d(whole, last.weight.roll(-2, 1), last.bias)
    torch.testing.assert_close(last(results).at(1.0), expected, rtol=1e-10, atol=1e-12)
    assert [slab.shape[1] for slab in last(results).slabs] == [4, 4, 4, 4]


def test_with_both_axes_whole_the_slabs_stay_shared() -> None:
    results = ScrollConv2d(3, 5, 1, whole_in=True, whole_out=True).double()(every_width(images(3)))
    assert results.shared and results.widths is None and results.slabs[0].shape[1] == 5


def test_state_dict_is_the_parents() -> None:
    plain, layer = nn.Conv2d(4, 8, 3), ScrollConv2d(4, 8, 3)
    layer.load_state_dict(plain.state_dict())
    assert torch.equal(layer.weight, plain.weight)
    plain.load_state_dict(ScrollConv2d(4, 8, 3).state_dict())


def test_scroll_is_saved_and_kept_by_a_plain_state() -> None:
    layer, other = scrolled(ScrollConv2d(4, 8, 3), 3), ScrollConv2d(4, 8, 3)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert other.scroll == 3
    other.load_state_dict(nn.Conv2d(4, 8, 3).state_dict())
    assert other.scroll == 3


def test_parents_parameters_are_shared_not_copied() -> None:
    plain = nn.Conv2d(4, 8, 3, padding="same", groups=4).eval()
    layer = ScrollConv2d.from_parent(plain, 4)
    assert layer.weight is plain.weight and layer.bias is plain.bias and not layer.training


def test_extracted_weights_are_copies_that_keep_what_is_frozen() -> None:
    layer = ScrollConv2d(4, 8, 3).requires_grad_(False).eval()
    small = layer.extract(1.0)
    with torch.no_grad():
        small.weight.zero_()
    assert layer.weight.abs().sum() > 0
    assert not small.weight.requires_grad and not small.training


def test_repr_tells_arguments_widths_scroll_and_backend() -> None:
    assert repr(ScrollConv2d(3, 8, 3, padding=1, widths=2, whole_in=True)) == (
        "ScrollConv2d(3, 8, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), widths=(0.5, 1.0), scroll=0, whole_in, "
        "backend=torch)"
    )


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        ("triton", "scroll_conv2d on cpu can't use triton: Triton kernels are for cuda"),
        ("cuda", "unknown: .* torch, triton, native"),
    ],
)
def test_a_backend_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, backend: str, message: str) -> None:
    layer = ScrollConv2d(4, 8, 1).double()
    monkeypatch.setenv("SLIMKERN_BACKEND", backend)
    with pytest.raises(ValueError, match=f"SLIMKERN_BACKEND={backend}.*{message}"):
        layer(slabs(layer)).at(1.0)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((6, 8, 3), {}, "in_channels=6 can't be cut into the 4 blocks .* multiple of 4, or pass whole_in=True"),
        ((8, 6, 3), {}, "out_channels=6 can't be cut .* pass whole_out=True"),
        ((8, 8, 3), {"groups": 2}, "groups=2 can't be cut into the 4 blocks .* since groups are cut whole"),
        ((8, 8, 3), {"groups": 4, "whole_in": True}, "groups=4: whole_in and whole_out must agree"),
        ((8, 8, 3), {"widths": 0}, "widths=0"),
    ],
    ids=["inputs", "outputs", "groups", "whole_groups", "widths"],
)
def test_bad_arguments_are_named(arguments: tuple[int, ...], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScrollConv2d(*arguments, **options)


def test_slabs_of_other_channels_or_widths_are_refused() -> None:
    layer = ScrollConv2d(4, 8, 1, widths=2).double()
    with pytest.raises(
        ValueError, match=r"sliced input axis and widths \(0.5, 1.0\) takes slabs of \[2, 4\] .* \[4, 4\]"
    ):
        layer(every_width(images(4)))
    with pytest.raises(ValueError, match=r"widths \(0.25,\) met a layer of widths \(0.5, 1.0\)"):
        layer(at_width(images(1), 0.25))
    layer.whole_in = True
    with pytest.raises(ValueError, match=r"whole input axis .* takes slabs of \[4, 4\] .* given \[3, 3\]"):
        layer(every_width(images(3)))


def test_a_strided_1x1_convolution_of_few_channels_has_the_right_gradient() -> None:
    """PyTorch's own is wrong on some CPUs, now and then."""
    layer, truth = ScrollConv2d(2, 4, 1, 2, bias=False, widths=1), nn.Conv2d(2, 4, 1, 2, bias=False).double()
    truth.weight.data.copy_(layer.weight.data)
    for _ in range(10):
        images = torch.randn(4, 2, 8, 8).contiguous(memory_format=torch.channels_last)
        (found,) = torch.autograd.grad(layer(images).square().sum(), [layer.weight])
        (expected,) = torch.autograd.grad(truth(images.double()).square().sum(), [truth.weight])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4, check_dtype=False)
