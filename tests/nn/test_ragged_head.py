from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from slimkern import ScrollLinear, WidthBatch, cross_entropies, every_width
from slimkern.ops import native
from tests.ops.truth import assert_near

WIDTHS = (0.5, 1.0)
BACKENDS = ["torch", *(["native"] if native.why_unavailable("cpu") is None else [])]


def heads(*classes: int, scroll: int = 1, bias: bool = True) -> list[ScrollLinear]:
    torch.manual_seed(0)
    made = [ScrollLinear(8, count, bias, widths=2, whole_out=True) for count in classes]
    for head in made:
        head.scroll = scroll
    return made


def maps(image: tuple[int, ...] = (3, 3)) -> WidthBatch:
    torch.manual_seed(1)
    slabs = [torch.randn(5, count, *image) for count in (4, 8)]
    if image:
        slabs = [slab.contiguous(memory_format=torch.channels_last) for slab in slabs]
    return WidthBatch([slab.requires_grad_() for slab in slabs], WIDTHS)


def one_after_the_other(maps: Any, heads: list[ScrollLinear], labels: Tensor, classes: range) -> Tensor:
    features = F.adaptive_avg_pool2d(maps, 1).flatten(1) if maps.dim() == 4 else maps
    own = zip(*(head(features).slabs for head in heads), strict=True)
    logits = [torch.cat(list(parts), 1)[:, classes.start : classes.stop] for parts in own]
    return torch.stack([F.cross_entropy(each, labels - classes.start) for each in logits])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("image", [(3, 3), ()], ids=["maps", "features"])
@pytest.mark.parametrize(
    ("classes", "used"),
    [(range(9), (0, 1, 2)), (range(5, 9), (2,)), (range(2, 5), (1,)), (range(1, 4), (0, 1)), (range(3, 9), (1, 2))],
    ids=["all", "last_head", "middle_head", "parts_of_heads", "two_heads"],
)
def test_is_pooling_heads_and_losses_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch, backend: str, image: tuple[int, ...], classes: range, used: tuple[int, ...]
) -> None:
    monkeypatch.setenv("SLIMKERN_BACKEND", f"{backend},torch")
    labels = torch.tensor([classes.start, classes.stop - 1, classes.start, classes.start + 1, classes.stop - 1])
    found = []
    for losses_of in (cross_entropies, one_after_the_other):
        given, own = maps(image), heads(2, 3, 4)
        losses = losses_of(given, own, labels, classes)
        (losses * torch.tensor([1.0, 2.0])).sum().backward()
        weights = [parameter.grad for place in used for parameter in own[place].parameters()]
        found.append([losses, *(slab.grad for slab in given.slabs), *weights])
        if losses_of is cross_entropies:
            assert all(head.weight.grad is None for place, head in enumerate(own) if place not in used)
    for place, (given, true) in enumerate(zip(*found, strict=True)):
        assert_near(f"loss or gradient {place}", given, true.detach().double(), 1e-4)


def test_heads_may_lack_a_bias() -> None:
    own = [*heads(2, bias=False), *heads(3)]
    labels = torch.tensor([0, 1, 2, 3, 4])
    torch.testing.assert_close(
        cross_entropies(maps(), own, labels), one_after_the_other(maps(), own, labels, range(5)), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    ("own", "classes", "message"),
    [
        ([], None, r"over range\(0, 0\) of heads of \[\] classes .* heads must have these classes"),
        (heads(2), range(2, 4), r"over range\(2, 4\) of heads of \[2\] classes at scrolls \[1\]: heads must have"),
        ([*heads(2), *heads(3, scroll=0)], None, r"of \[2, 3\] classes at scrolls \[1, 0\]: .* and be at one scroll"),
        (heads(2), range(5), r"ragged_head: classes 0 to 5 are no range within the 2 of the weight"),
    ],
    ids=["no_heads", "no_such_classes", "scrolls", "too_many_classes"],
)
def test_what_does_not_fit_is_refused(own: list[ScrollLinear], classes: range | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cross_entropies(maps(), own, torch.zeros(5, dtype=torch.int64), classes)


def test_heads_of_sliced_classes_and_maps_of_other_channels_are_refused() -> None:
    labels = torch.zeros(5, dtype=torch.int64)
    with pytest.raises(ValueError, match="whole_out=True: these have fewer classes at smaller widths"):
        cross_entropies(maps(), [ScrollLinear(8, 4, widths=2)], labels)
    with pytest.raises(ValueError, match=r"takes slabs of \[4, 8\] channels, but was given \[3, 8\]"):
        cross_entropies(WidthBatch([torch.ones(5, 3), torch.ones(5, 8)], WIDTHS), heads(4), labels)


def test_shared_maps_have_a_loss_a_width() -> None:
    whole = ScrollLinear(8, 4, widths=2, whole_in=True, whole_out=True)
    losses = cross_entropies(every_width(torch.ones(5, 8)), [whole], torch.zeros(5, dtype=torch.int64))
    assert len(losses) == 2 and losses[0] == losses[1]
