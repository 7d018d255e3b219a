from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import nn

from slimkern import ScrollLinear, WidthBatch, at_width, every_width


def features(count: int) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(3, count, dtype=torch.float64)


def slabs(layer: ScrollLinear) -> WidthBatch:
    counts = [layer.widths.channels(layer.in_features, width) for width in layer.widths.fractions]
    return WidthBatch([features(count) for count in counts], layer.widths.fractions)


def scrolled(layer: ScrollLinear, scroll: int) -> ScrollLinear:
    layer.scroll = scroll
    return layer.double()


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
def test_at_width_one_and_scroll_zero_is_the_parent(bias: bool) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(8, 4, bias)
    torch.manual_seed(0)
    layer = ScrollLinear(8, 4, bias, whole_in=True)
    x = features(8).float()
    assert torch.equal(plain(x), layer(x))
    torch.testing.assert_close(layer(at_width(x, 1.0)).at(1.0), plain(x))


@pytest.mark.parametrize("scroll", range(4))
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
def test_every_slab_is_its_extracted_sub_network(bias: bool, scroll: int) -> None:
    layer = scrolled(ScrollLinear(8, 4, bias), scroll)
    given = slabs(layer)
    for (width, result), slab in zip(layer(given), given.slabs, strict=True):
        small = layer.extract(width)
        assert type(small) is nn.Linear and small.in_features == slab.shape[1]
        torch.testing.assert_close(result, small(slab), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(layer(features(8)), layer.extract(1.0)(features(8)))


def test_a_head_reads_scrolled_features_into_classes_in_order() -> None:
    head = scrolled(ScrollLinear(8, 4, whole_out=True), 3)
    given = slabs(head)
    for (_, logits), slab in zip(head(given), given.slabs, strict=True):
        columns = [(j + 6) % 8 for j in range(slab.shape[1])]
        torch.testing.assert_close(logits, slab @ head.weight[:, columns].T + head.bias, rtol=1e-10, atol=1e-12)


def test_with_both_axes_whole_the_slabs_stay_shared() -> None:
    assert ScrollLinear(3, 5, whole_in=True, whole_out=True).double()(every_width(features(3))).shared


def test_state_dict_is_the_parents() -> None:
    plain, layer = nn.Linear(8, 4), ScrollLinear(8, 4)
    layer.load_state_dict(plain.state_dict())
    assert torch.equal(layer.weight, plain.weight)
    plain.load_state_dict(ScrollLinear(8, 4).state_dict())


def test_scroll_is_saved_and_kept_by_a_plain_state() -> None:
    layer, other = scrolled(ScrollLinear(8, 4), 3), ScrollLinear(8, 4)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert other.scroll == 3
    other.load_state_dict(nn.Linear(8, 4).state_dict())
    assert other.scroll == 3


def test_parents_parameters_are_shared_not_copied() -> None:
    plain = nn.Linear(8, 4).eval()
    layer = ScrollLinear.from_parent(plain, 4)
    assert layer.weight is plain.weight and layer.bias is plain.bias and not layer.training


def test_extracted_weights_are_copies_that_keep_what_is_frozen() -> None:
    layer = ScrollLinear(8, 4).requires_grad_(False).eval()
    small = layer.extract(1.0)
    with torch.no_grad():
        small.weight.zero_()
    assert layer.weight.abs().sum() > 0
    assert not small.weight.requires_grad and not small.training


def test_repr_tells_arguments_widths_scroll_and_backend() -> None:
    assert repr(scrolled(ScrollLinear(8, 5, widths=2, whole_out=True), 1)) == (
        "ScrollLinear(in_features=8, out_features=5, bias=True, widths=(0.5, 1.0), scroll=1, whole_out, backend=torch)"
    )


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        ("triton", "scroll_linear on cpu can't use triton: Triton kernels are for cuda"),
        ("cuda", "unknown: .* torch, triton, native"),
    ],
)
def test_a_backend_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, backend: str, message: str) -> None:
    layer = ScrollLinear(8, 4).double()
    monkeypatch.setenv("SLIMKERN_BACKEND", backend)
    with pytest.raises(ValueError, match=f"SLIMKERN_BACKEND={backend}.*{message}"):
        layer(slabs(layer))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((6, 8), {}, "in_features=6 can't be cut into the 4 blocks .* multiple of 4, or pass whole_in=True"),
        ((8, 6), {}, "out_features=6 can't be cut .* pass whole_out=True"),
        ((8, 8), {"widths": (0.5,)}, "must ascend and end in 1.0"),
    ],
    ids=["inputs", "outputs", "widths"],
)
def test_bad_arguments_are_named(arguments: tuple[int, ...], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScrollLinear(*arguments, **options)


def test_slabs_of_other_features_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"ScrollLinear with a sliced input axis .* takes slabs of \[2, 4, 6, 8\] .* \[8, 8,"
    ):
        ScrollLinear(8, 4).double()(every_width(features(8)))
