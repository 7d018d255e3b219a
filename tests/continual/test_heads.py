from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from slimkern.continual.heads import CorrectedHead, CosineHead, Scale
from slimkern.continual.network import ContinualNet
from slimkern.models import resnet18
from slimkern.nn import ScrollLinear, extract, scroll_to
from slimkern.width_batch import WidthBatch, every_width
from slimkern.widths import Widths

WIDTHS = Widths.of((0.25, 0.5, 1.0))
CHANNELS, CLASSES = 8, 3
FEATURES = torch.randn(5, CHANNELS, generator=torch.Generator().manual_seed(1))
SLABS = WidthBatch([FEATURES[:, :2], FEATURES[:, :4], FEATURES], WIDTHS.fractions)


def made(kind: type[ScrollLinear], scroll: int) -> ScrollLinear:
    torch.manual_seed(0)
    head = kind(CHANNELS, CLASSES, widths=WIDTHS, whole_out=True)
    head.scroll = scroll
    return head


def columns(head: ScrollLinear, channels: int) -> NDArray[np.float64]:
    """The weights that positions 0 to `channels` - 1 read."""
    offset = head.scroll * CHANNELS // WIDTHS.blocks
    return head.weight.detach().double().numpy()[:, [(at + offset) % CHANNELS for at in range(channels)]]


def slabs_of(head: nn.Module) -> list[Tensor]:
    answers = head(SLABS)
    assert isinstance(answers, WidthBatch) and answers.widths == WIDTHS.fractions
    return list(answers.slabs)


@pytest.mark.parametrize("scroll", [0, 1, 3])
def test_cosines_are_of_what_a_sub_network_has(scroll: int) -> None:
    head = made(CosineHead, scroll)
    assert head.bias is None
    found = slabs_of(head)
    for slab, cosines in zip(SLABS.slabs, found, strict=True):
        features, weight = slab.double().numpy(), columns(head, slab.shape[1])
        for row, feature in enumerate(features):
            for label, own in enumerate(weight):
                expected = feature @ own / np.linalg.norm(feature) / np.linalg.norm(own)
                assert cosines[row, label].item() == pytest.approx(expected, abs=1e-6)
    torch.testing.assert_close(head(FEATURES), found[-1])


def test_cosines_are_not_rounded_to_the_precision_of_the_features() -> None:
    head = made(CosineHead, 1)
    halved = WidthBatch([slab.bfloat16() for slab in SLABS.slabs], SLABS.widths)
    with torch.autocast("cpu", torch.bfloat16):
        found = head(halved)
    expected = head(WidthBatch([slab.float() for slab in halved.slabs], SLABS.widths))
    for own, exact in zip(found.slabs, expected.slabs, strict=True):
        assert own.dtype == torch.float32 and torch.equal(own, exact)


@pytest.mark.parametrize("kind", [CosineHead, CorrectedHead])
@pytest.mark.parametrize("scroll", [0, 3])
def test_gradients_are_those_of_numbers_a_little_apart(kind: type[ScrollLinear], scroll: int) -> None:
    head = made(kind, scroll).double()

    def of(features: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        slabs = WidthBatch([features[:, :2], features[:, :4], features], WIDTHS.fractions)
        return torch.func.functional_call(head, {"weight": weight}, slabs).slabs

    inputs = (FEATURES.double().requires_grad_(), head.weight.detach().clone().requires_grad_())
    assert torch.autograd.gradcheck(of, inputs)


def test_each_width_has_a_correction_of_its_own() -> None:
    head, plain = made(CorrectedHead, 1), made(ScrollLinear, 1)
    assert isinstance(head, CorrectedHead)
    for own, before in zip(slabs_of(head), slabs_of(plain), strict=True):
        assert torch.equal(own, before)
    head.alpha.copy_(torch.tensor([2.0, 3.0, 5.0]))
    head.beta.copy_(torch.tensor([-1.0, 0.0, 1.0]))
    for own, before, alpha, beta in zip(slabs_of(head), slabs_of(plain), (2, 3, 5), (-1, 0, 1), strict=True):
        torch.testing.assert_close(own, alpha * before + beta)
    torch.testing.assert_close(head(FEATURES), slabs_of(head)[-1])
    only = head(WidthBatch([FEATURES[:, :4]], (0.5,)))
    torch.testing.assert_close(only.slabs[0], slabs_of(head)[1])
    assert {name for name, _ in head.named_parameters()} == {"weight", "bias"}


@torch.no_grad()
@pytest.mark.parametrize("kind", [CosineHead, CorrectedHead])
def test_an_extracted_network_answers_as_its_sub_network(kind: type[ScrollLinear]) -> None:
    torch.manual_seed(0)
    net = ContinualNet(resnet18(None, WIDTHS, in_channels=1, channels=4), WIDTHS, kind, Scale())
    for classes in (2, 3):
        net.add_head(classes)
    scroll_to(net, task=3)
    for head in net.heads:
        if isinstance(head, CorrectedHead):
            head.alpha.copy_(torch.tensor([2.0, 3.0, 5.0]))
            head.beta.copy_(torch.tensor([-1.0, 0.5, 1.0]))
    images = torch.randn(3, 1, 8, 8)
    answers = net.eval()(every_width(images))
    assert isinstance(answers, WidthBatch)
    for width, logits in answers:
        small = extract(net, width)
        torch.testing.assert_close(small(images), logits, rtol=1e-4, atol=1e-5)


def test_the_scale_is_a_parameter_that_multiplies() -> None:
    scale = Scale()
    assert torch.equal(scale(FEATURES), FEATURES)
    with torch.no_grad():
        scale.factor.fill_(3.0)
    torch.testing.assert_close(scale(FEATURES), 3 * FEATURES)
    assert all(torch.equal(own, 3 * slab) for own, slab in zip(slabs_of(scale), SLABS.slabs, strict=True))
    scale(FEATURES).sum().backward()
    assert scale.factor.grad is not None and scale.factor.grad.item() == pytest.approx(FEATURES.sum().item(), rel=1e-5)
