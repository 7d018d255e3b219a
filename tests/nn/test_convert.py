from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models

from slimkern import (
    ConversionError,
    ScrollConv2d,
    ScrollLinear,
    SwitchableBatchNorm2d,
    at_width,
    every_width,
    extract,
    scroll_to,
    scrollify,
)
from slimkern.models import resnet18
from tests.ops.truth import assert_near


class Own(nn.Module):
    """What users write: functional calls, sizes, a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.branch = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.head = nn.Linear(8 * 2 * 2, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.leaky_relu(self.norm(self.stem(x)), 0.1), 2)
        x = x + 0.5 * torch.tanh(self.branch(x))
        x = F.adaptive_avg_pool2d(x, 2)
        return self.head(x.reshape(x.size(0), -1))


def vgg11_bn() -> nn.Module:
    """With a narrower classifier: the published one has a hundred million weights."""
    with torch.device("meta"):
        net: Any = models.vgg11_bn()
    net.classifier = nn.Sequential(nn.Linear(512 * 7 * 7, 16), nn.ReLU(True), nn.Dropout(), nn.Linear(16, 10))
    net.features.to_empty(device="cpu")
    for module in net.features:
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
            module.reset_parameters()
    return net


NETS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: models.resnet18(num_classes=10),
    "resnet50": lambda: models.resnet50(num_classes=10),
    "vgg11_bn": vgg11_bn,
    "mobilenet_v2": lambda: models.mobilenet_v2(num_classes=10),
    "own": Own,
}


def lively(net: nn.Module) -> nn.Module:
    """Batch norms that differ in every parameter and statistic, in float64."""
    for module in net.modules():
        if isinstance(module, (nn.BatchNorm2d, SwitchableBatchNorm2d)):
            for tensor in (module.weight, module.running_var):
                assert tensor is not None
                nn.init.uniform_(tensor, 0.8, 1.2)
            for tensor in (module.bias, module.running_mean):
                assert tensor is not None
                nn.init.normal_(tensor, std=0.1)
    return net.double()


def images(size: int = 32) -> Tensor:
    return torch.randn(2, 3, size, size, dtype=torch.float64)


def check_every_sub_network(net: nn.Module, x: Tensor, tolerance: float) -> None:
    """All widths in one pass, one at a time, and extracted are the same, at every scroll."""
    for scroll in range(4):
        assert scroll_to(net, scroll) == scroll
        together = net(every_width(x))
        assert len(together) == 4
        for width, logits in together:
            assert_near(f"width {width} at scroll {scroll} alone", net(at_width(x, width)).at(width), logits, tolerance)
            assert_near(f"width {width} at scroll {scroll} extracted", extract(net, width)(x), logits, tolerance)
        assert_near("a plain tensor", net(x), together.at(1.0), tolerance)


@pytest.mark.parametrize("build", NETS.values(), ids=NETS.keys())
@torch.no_grad()
def test_every_sub_network_of_a_converted_net(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    net, x = lively(build()).eval(), images()
    plain, before = net(x), dict(net.named_parameters())
    layers = [module for module in net.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    assert scrollify(net, 4) is net
    assert_near("width 1.0 at scroll 0", net(x), plain, 1e-12)
    swapped = [module for module in net.modules() if isinstance(module, (ScrollConv2d, ScrollLinear))]
    for old, new in zip(layers, swapped, strict=True):
        assert new.weight is old.weight and new.bias is old.bias
    assert list(dict(net.named_parameters())) == list(before)
    assert [layer.whole_in for layer in swapped] == [True] + [False] * (len(swapped) - 1)
    assert [layer.whole_out for layer in swapped] == [False] * (len(swapped) - 1) + [True]
    assert not any(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    check_every_sub_network(lively(net), x, 1e-10)


@torch.no_grad()
def test_every_sub_network_in_training() -> None:
    torch.manual_seed(0)
    check_every_sub_network(scrollify(lively(models.resnet18(num_classes=10)), 4).train(), images(64), 1e-9)


@torch.no_grad()
def test_uneven_widths() -> None:
    torch.manual_seed(0)
    net, x = lively(scrollify(Own(), (0.25, 0.5, 1.0))).eval(), images(8)
    scroll_to(net, 3)
    for width, logits in net(every_width(x)):
        assert_near(f"width {width}", extract(net, width)(x), logits)


def test_gradients_of_all_widths_are_those_of_the_widths_alone() -> None:
    torch.manual_seed(0)
    net, x = lively(scrollify(Own(), 4)).eval(), images(8)
    scroll_to(net, 1)
    torch.stack([logits.square().sum() for _, logits in net(every_width(x))]).sum().backward()
    together = [parameter.grad.clone() for parameter in net.parameters() if parameter.grad is not None]
    net.zero_grad()
    for width in (0.25, 0.5, 0.75, 1.0):
        net(at_width(x, width)).at(width).square().sum().backward()
    for grad, (name, parameter) in zip(together, net.named_parameters(), strict=True):
        assert parameter.grad is not None
        assert_near(f"gradient of {name}", grad, parameter.grad)


@pytest.mark.parametrize("build", NETS.values(), ids=NETS.keys())
def test_every_converted_net_trains(build: Callable[[], nn.Module]) -> None:
    net = scrollify(build(), 2)
    scroll_to(net, 1)
    losses = [
        F.cross_entropy(logits, torch.tensor([1, 2])) for _, logits in net(every_width(torch.randn(2, 3, 32, 32)))
    ]
    torch.stack(losses).sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_compiled_as_one_graph() -> None:
    torch.manual_seed(0)
    net = resnet18(num_classes=8, widths=4, channels=8)
    scroll_to(net, 1)
    x, labels = torch.randn(4, 3, 8, 8), torch.arange(4)

    def losses(x: Tensor) -> list[Tensor]:
        return [F.cross_entropy(logits, labels) for _, logits in net(every_width(x))]

    def step(losses: Callable[[Tensor], list[Tensor]]) -> list[Tensor]:
        net.zero_grad()
        found = losses(x)
        torch.stack(found).sum().backward()
        return [*found, *(parameter.grad for parameter in net.parameters() if parameter.grad is not None)]

    torch.testing.assert_close(step(torch.compile(losses, fullgraph=True, backend="aot_eager")), step(losses))


class Cat(Own):
    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        x = torch.cat([self.branch(x), x], 1)
        return self.head(x.mean((2, 3)))


class Viewing(Own):
    def forward(self, x: Tensor) -> Tensor:
        x = self.branch(self.norm(self.stem(x)))
        return self.head(x.view(x.size(0), -1))


class DependsOnData(Own):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.sum() > 0 else -x)


@pytest.mark.parametrize("show", [lambda x: x, every_width], ids=["tensor", "every_width"])
def test_a_view_that_flattens_images_works_as_before(show: Callable[[Tensor], Any]) -> None:
    net = scrollify(Viewing())
    scroll_to(net, 1)
    net(show(torch.randn(2, 3, 2, 2)))


def with_module(name: str, module: nn.Module) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        net = Own()
        setattr(net, name, module)
        return net

    return build


def with_hook() -> nn.Module:
    net = Own()
    net.branch.register_forward_hook(lambda module, inputs, output: None)
    return net


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (with_module("norm", nn.GroupNorm(2, 8)), {}, r"norm \(GroupNorm\): holds weights and has no slimmable form"),
        (with_module("norm", nn.PReLU(8)), {}, r"norm \(PReLU\): holds weights"),
        (with_module("norm", nn.PReLU(8)), {"whole_in": ["stem"]}, "norm: a PReLU holds weights and has no slimmable"),
        (Cat, {}, r"cat \(cat\): has no sound meaning for slabs"),
        (with_hook, {}, "branch: has hooks, which would be lost"),
        (with_module("unused", nn.Linear(4, 4)), {}, "unused: is never reached by the forward pass"),
        (with_module("branch", nn.Conv2d(8, 8, 1, groups=2)), {}, "branch: groups=2 can't be cut into the 4 blocks"),
        (Own, {"widths": 3}, "stem: out_channels=8 can't be cut into the 3 blocks"),
        (DependsOnData, {}, r"can't be traced .* scrollify\(net, whole_in=\['stem'\], whole_out=\['head'\]\)"),
        (Own, {"whole_in": ["first"]}, r"whole_in=\['first'\]: Own has no such modules"),
        (Own, {"keep": "stem"}, "keep='stem' must be a collection of names, not one string"),
        (nn.Flatten, {}, "Flatten holds no Conv2d, Linear or BatchNorm2d to swap"),
    ],
    ids="group_norm prelu prelu_named cat hook unused groups widths untraceable name one_string nothing".split(),
)
def test_refusals_name_the_obstacle_and_change_nothing(
    build: Callable[[], nn.Module], options: dict[str, Any], message: str
) -> None:
    net = build()
    before = list(net.named_modules())
    with pytest.raises(ConversionError, match=message):
        scrollify(net, **options)
    assert list(net.named_modules()) == before


@torch.no_grad()
def test_ends_can_be_named_where_tracing_fails() -> None:
    torch.manual_seed(0)
    net = scrollify(DependsOnData(), whole_in=["stem"], whole_out=["head"])
    assert net.stem.whole_in and not net.stem.whole_out and net.head.whole_out and not net.head.whole_in
    x = images(8).float()
    x = x * x.sum().sign()
    torch.testing.assert_close(net(x), Own.forward(net, x))


@torch.no_grad()
def test_kept_modules_stay_and_the_layer_after_them_sees_whole_channels() -> None:
    torch.manual_seed(0)
    net: Any = nn.Sequential(nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)), nn.Conv2d(6, 8, 1), Pool(8))
    x = images(8)
    kept = net[0]
    scrollify(net.double().eval(), keep=["0"])
    assert net[0] is kept and type(kept[0]) is nn.Conv2d and net[1].whole_in
    for width, logits in net(every_width(x)):
        assert_near(f"width {width}", extract(net, width)(x), logits)


class Pool(nn.Module):
    """Global average pooling and a head."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.head = nn.Linear(channels, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.mean((2, 3)))
