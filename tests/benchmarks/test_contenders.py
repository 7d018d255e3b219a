"""The comparison is fair only if all contenders compute the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from slimkern.widths import Widths

contenders = pytest.importorskip("contenders")
FOUR = Widths.of(4)
torch.manual_seed(0)
IMAGES, LABELS = torch.randn(4, 3, 16, 16), torch.tensor([1, 5, 1, 99])


@pytest.fixture(scope="module")
def base() -> nn.Module:
    # The narrowest slab then has 8: with fewer, oneDNN 3.12 gets gradients of plain strided 1x1 convolutions wrong.
    return contenders.base_network(channels=32)


def steps(contender: object, count: int = 2) -> list[float]:
    """Losses of a few steps of plain descent."""
    losses = []
    for _ in range(count):
        loss = contender.loss(IMAGES, LABELS)  # type: ignore[attr-defined]
        for own, gradient in zip(
            contender.parameters,  # type: ignore[attr-defined]
            torch.autograd.grad(loss, contender.parameters),  # type: ignore[attr-defined]
            strict=True,
        ):
            own.data -= 0.05 * gradient
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("scroll", [0, 1])
@pytest.mark.parametrize("read", ["by_concatenation", "by_views"])
def test_passes_lose_what_slimkern_does(base: nn.Module, read: str, scroll: int) -> None:
    truth = contenders.slimkern(base, FOUR, scroll)
    loop = contenders.passes(base, FOUR, scroll, getattr(contenders, read))
    assert sum(own.numel() for own in loop.parameters) == sum(own.numel() for own in truth.parameters)
    assert steps(loop) == pytest.approx(steps(truth), rel=1e-4)


def test_the_masked_network_loses_what_slimkern_does(base: nn.Module) -> None:
    assert steps(contenders.masked(base, FOUR)) == pytest.approx(steps(contenders.slimkern(base, FOUR, 0)), rel=1e-4)


def test_the_plain_network_is_width_one(base: nn.Module) -> None:
    one = contenders.slimkern(base, Widths.of(1), 0)
    assert steps(contenders.plain(base)) == pytest.approx(steps(one), rel=1e-4)
