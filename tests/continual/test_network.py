from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimkern.continual.heads import CorrectedHead, CosineHead, Scale
from slimkern.continual.network import ContinualNet
from slimkern.models import resnet18
from slimkern.nn import ScrollLinear, scroll_to
from slimkern.nn.scroll import current_scroll
from slimkern.width_batch import WidthBatch, at_width, every_width
from slimkern.widths import Widths

IMAGES = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def network(widths: Widths, heads: tuple[int, ...]) -> ContinualNet:
    torch.manual_seed(0)
    net = ContinualNet(resnet18(None, widths, in_channels=1, channels=widths.blocks), widths)
    for classes in heads:
        net.add_head(classes)
    return net.eval()


def by_hand(net: ContinualNet, features: Tensor, scroll: int) -> Tensor:
    """Position j of the features reads column (j + scroll * block) mod C of each head."""
    channels = net.backbone.features
    offset = scroll * channels // net.widths.blocks
    columns = [(position + offset) % channels for position in range(features.shape[1])]
    weight, bias = (torch.cat([getattr(head, name) for head in net.heads]).double() for name in ("weight", "bias"))
    return features.double() @ weight[:, columns].T + bias


@torch.no_grad()
@pytest.mark.parametrize("scroll", [0, 1, 3])
@pytest.mark.parametrize("widths", [1, 2, 4, (0.25, 0.5, 1.0)], ids=str)
def test_logits_of_all_heads_stand_side_by_side(widths: int | tuple[float, ...], scroll: int) -> None:
    net = network(Widths.of(widths), heads=(2, 3, 1))
    scroll_to(net, scroll)
    scroll %= net.widths.blocks
    features, logits = net.backbone(every_width(IMAGES)), net(every_width(IMAGES))
    assert isinstance(features, WidthBatch) and isinstance(logits, WidthBatch)
    assert logits.widths == net.widths.fractions
    for slab, own in zip(features.slabs, logits.slabs, strict=True):
        assert own.shape == (3, 6)
        torch.testing.assert_close(own.double(), by_hand(net, slab, scroll), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(net(IMAGES), logits.slabs[-1])


@torch.no_grad()
def test_one_width_is_answered_as_among_all() -> None:
    net = network(Widths.of(4), heads=(2, 2))
    every, one = net(every_width(IMAGES)), net(at_width(IMAGES, 0.5))
    assert isinstance(every, WidthBatch) and isinstance(one, WidthBatch)
    assert one.widths == (0.5,)
    torch.testing.assert_close(one.slabs[0], every.at(0.5))


@torch.no_grad()
def test_scrolling_changes_what_narrow_widths_see_and_at_scroll_0_comes_back() -> None:
    net = network(Widths.of(4), heads=(2,))
    before, narrow = net(IMAGES), net(at_width(IMAGES, 0.25))
    assert isinstance(before, Tensor) and isinstance(narrow, WidthBatch)
    scroll_to(net, task=1)
    scrolled = net(at_width(IMAGES, 0.25))
    assert isinstance(scrolled, WidthBatch) and not torch.allclose(scrolled.slabs[0], narrow.slabs[0])
    scroll_to(net, task=4)
    assert torch.equal(net(IMAGES), before)


@torch.no_grad()
def test_a_new_head_leaves_the_logits_of_the_old_ones() -> None:
    net = network(Widths.of(2), heads=(2,))
    before = net(IMAGES)
    net.add_head(3)
    after = net(IMAGES)
    assert isinstance(before, Tensor) and isinstance(after, Tensor)
    assert after.shape == (3, 5) and torch.equal(after[:, :2], before)


def test_a_new_head_has_the_scroll_of_the_backbone() -> None:
    net = network(Widths.of(4), heads=(2,))
    scroll_to(net, task=3)
    net.add_head(2)
    assert current_scroll(net) == 3


@pytest.mark.parametrize("classes", [range(5), range(2, 5)], ids=["all", "last_head"])
@pytest.mark.parametrize(
    ("head", "scale"),
    [(ScrollLinear, None), (CorrectedHead, None), (CosineHead, Scale())],
    ids="linear corrected cosine".split(),
)
def test_cross_entropies_of_all_widths_are_those_of_the_logits(
    head: type[ScrollLinear], scale: nn.Module | None, classes: range
) -> None:
    torch.manual_seed(0)
    widths = Widths.of(4)
    net = ContinualNet(resnet18(None, widths, in_channels=1, channels=4), widths, head, scale)
    net.add_head(2)
    net.add_head(3)
    scroll_to(net, task=1)
    labels = torch.tensor([2, 3, 4])
    found = net.eval().cross_entropies(net.backbone.maps(every_width(IMAGES)), labels, classes)
    for loss, (_, logits) in zip(found, net(every_width(IMAGES)), strict=True):
        expected = F.cross_entropy(logits[:, classes.start :], labels - classes.start)
        torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
