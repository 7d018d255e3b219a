from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import slimkern as sk

IMAGES = torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(0))


class Stages(nn.Module):
    """Two stages, each called by what it is given."""

    def __init__(self, call: Callable[[nn.Module, Any], Any], norm: type[nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.call = call
        self.first = nn.Sequential(nn.Conv2d(4, 8, 3), norm(8), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3), norm(8))

    def forward(self, x: Any) -> Any:
        return self.call(self.second, self.call(self.first, x))


def plainly(module: nn.Module, x: Any) -> Any:
    return module(x)


def pair(make: Callable[[Stages], nn.Module]) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(1)
    net = make(Stages(plainly))
    again = copy.deepcopy(net)
    again.call = sk.recomputed  # type: ignore[assignment]
    return net, again


def loss_of(answer: Any) -> Tensor:
    slabs = [slab for _, slab in answer] if isinstance(answer, sk.WidthBatch) else [answer]
    return torch.stack([slab.square().sum() for slab in slabs]).sum()


@pytest.mark.parametrize(
    ("make", "show"),
    [
        (lambda net: net, lambda images: images),
        (lambda net: sk.scrollify(net, whole_in=["first.0"]), lambda images: images),
        (lambda net: sk.scrollify(net, whole_in=["first.0"]), sk.every_width),
        (lambda net: sk.scrollify(net, whole_in=["first.0"]), lambda images: sk.at_widths(images, (0.25, 1.0))),
    ],
    ids=["plain network", "width 1.0", "every width", "two widths"],
)
def test_losses_gradients_and_running_statistics_are_the_same(
    make: Callable[[Stages], nn.Module], show: Callable[[Tensor], Any]
) -> None:
    nets = pair(make)
    for _ in range(2):
        losses = [loss_of(net(show(IMAGES))) for net in nets]
        for loss in losses:
            loss.backward()
        assert torch.equal(*losses)
    (_, plain), (_, again) = ({**dict(net.named_parameters())}.popitem() for net in nets)
    assert plain.grad is not None and plain.grad.any() and again.grad is not None
    for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    for (name, one), other in zip(nets[0].named_buffers(), nets[1].buffers(), strict=True):
        assert torch.equal(one, other), name
        assert name.endswith("var") or one.any()


def test_what_lies_inside_a_stage_is_not_kept() -> None:
    kept = []
    for net in pair(lambda net: sk.scrollify(net, whole_in=["first.0"])):
        sizes: list[int] = []

        def note(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.numel() if tensor.dim() == 4 and len(tensor) == len(IMAGES) else 0)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss_of(net(sk.every_width(IMAGES)))
        kept.append(sum(sizes))
    assert 0 < kept[1] < kept[0] / 2


def test_dropout_drops_the_same_again() -> None:
    stage = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5), nn.Linear(6, 1))
    x = torch.randn(4, 6)
    gradients = []
    for call in (plainly, sk.recomputed):
        torch.manual_seed(3)
        stage.zero_grad()
        call(stage, x).sum().backward()
        gradients.append([own.grad for own in stage.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_without_gradients_it_is_an_ordinary_call() -> None:
    net, again = pair(lambda net: sk.scrollify(net, whole_in=["first.0"]))
    with torch.no_grad():
        assert torch.equal(loss_of(net.eval()(IMAGES)), loss_of(again.eval()(IMAGES)))
