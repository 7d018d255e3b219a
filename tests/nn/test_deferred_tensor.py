"""A batch norm that leaves what follows to its kernel changes nothing but the time it takes."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torchvision import models

from slimkern import SwitchableBatchNorm2d, scroll_to, scrollify
from slimkern.nn import switchable_batch_norm
from slimkern.nn.deferred_tensor import DeferredTensor
from slimkern.ops import native

pytestmark = pytest.mark.skipif(native.why_unavailable("cpu") is not None, reason="needs the compiled kernels")


@pytest.fixture(autouse=True)
def defer_small_ones(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(switchable_batch_norm, "WORTH_DEFERRING", 0)
    yield


def norm(feeds_relu: bool = True) -> SwitchableBatchNorm2d:
    layer = SwitchableBatchNorm2d(8, widths=2)
    torch.manual_seed(1)
    nn.init.uniform_(layer.weight, 0.5, 1.5)
    nn.init.normal_(layer.bias)
    layer.feeds_relu = feeds_relu
    return layer


def images(seed: int = 0) -> Tensor:
    x = torch.randn(4, 8, 6, 6, generator=torch.Generator().manual_seed(seed))
    return (2 * x + 1).contiguous(memory_format=torch.channels_last)


def two_uses(y: Tensor, r: Tensor) -> Tensor:
    return F.relu(y) + y * r


def reused_after_a_change(y: Tensor, r: Tensor) -> Tensor:
    y += r
    y.relu_()
    return y * 2


USES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "relu": lambda y, r: F.relu(y),
    "relu_by_keyword": lambda y, r: F.relu(input=y, inplace=True),
    "relu_module": lambda y, r: nn.ReLU(inplace=True)(y),
    "relu_method": lambda y, r: y.relu(),
    "torch_relu_in_place": lambda y, r: torch.relu_(y),
    "add_and_relu": lambda y, r: F.relu(y + r),
    "add_from_the_left_and_relu": lambda y, r: F.relu(r + y),
    "add_in_place_and_relu": lambda y, r: y.add_(r).relu_(),
    "add_scaled": lambda y, r: F.relu(torch.add(y, r, alpha=2)),
    "add_another_shape": lambda y, r: F.relu(y + r.mean((2, 3), keepdim=True)),
    "add_a_larger_one": lambda y, r: F.relu(y[:, :1] + r),
    "add_another_dtype": lambda y, r: F.relu(y + r.double()),
    "add_a_number": lambda y, r: F.relu(y + 1),
    "add_itself": lambda y, r: F.relu(y + y),
    "add_alone": lambda y, r: (y + r).tanh(),
    "into_another": lambda y, r: F.relu(r.clone().add_(y)),
    "another_function": lambda y, r: F.silu(y),
    "in_a_list": lambda y, r: torch.cat([y, r], 1),
    "two_uses": two_uses,
    "reused_after_a_change": reused_after_a_change,
}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_what_follows_gives_what_it_gave(use: Callable[[Tensor, Tensor], Tensor], training: bool) -> None:
    found = []
    for feeds_relu in (True, False):
        layer = norm(feeds_relu).train(training)
        x, r = images(0).requires_grad_(), images(1).requires_grad_()
        y = layer(x)
        assert (type(y) is DeferredTensor) == feeds_relu and isinstance(y, Tensor)
        result = use(y, r)
        assert type(result) is Tensor
        result.square().sum().backward()
        found.append([result, x.grad, r.grad, layer.weight.grad, layer.bias.grad, *layer.buffers()])
    for own, true in zip(*found, strict=True):
        assert (own is None) == (true is None)
        if own is not None:
            torch.testing.assert_close(own, true, rtol=1e-4, atol=1e-4)


def prepared(build: Callable[[], nn.Module], feeds_relu: bool, scroll: int = 0) -> nn.Module:
    torch.manual_seed(0)
    net = scrollify(build(), 2).to(memory_format=torch.channels_last)
    scroll_to(net, scroll)
    for module in net.modules():
        if isinstance(module, SwitchableBatchNorm2d):
            module.feeds_relu &= feeds_relu
    return net


def step(net: nn.Module, x: Tensor) -> list[Tensor]:
    logits = net(x)
    assert type(logits) is Tensor
    F.cross_entropy(logits, torch.arange(len(x))).backward()
    return [logits, *(parameter.grad for parameter in net.parameters()), *net.buffers()]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each call of the kernel was given a ReLU."""
    seen: list[bool] = []
    forward = native.batch_norm_forward

    def noted(*arguments: Any) -> Any:
        seen.append(arguments[8])
        return forward(*arguments)

    monkeypatch.setattr(native, "batch_norm_forward", noted)
    return seen


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_a_whole_network(calls: list[bool], training: bool) -> None:
    x = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    x = x.contiguous(memory_format=torch.channels_last)
    found = [
        step(prepared(lambda: models.resnet18(num_classes=4), f, scroll=1).train(training), x) for f in (True, False)
    ]
    assert calls.count(True) == 17 and calls.count(False) == 3  # those of the shortcuts are summands
    for own, true in zip(*found, strict=True):
        error = (own - true).double().norm() / true.double().norm().clamp(min=1e-6)
        assert error < 1e-2


def small() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4 * 4, 4)
    )


def test_gradients_of_gradients() -> None:
    found = []
    for feeds_relu in (True, False):
        net = prepared(small, feeds_relu)
        x = images()[:, :3].contiguous(memory_format=torch.channels_last).requires_grad_()
        (slope,) = torch.autograd.grad(net(x).square().sum(), x, create_graph=True)
        slope.square().sum().backward()
        found.append([parameter.grad for parameter in net.parameters()])
    for own, true in zip(*found, strict=True):
        torch.testing.assert_close(own, true, rtol=1e-3, atol=1e-3)


def stored(net: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(
    "again",
    [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net)), stored],
    ids=["deepcopy", "pickle", "save"],
)
def test_networks_are_copied_and_stored_as_before(again: Callable[[nn.Module], nn.Module], calls: list[bool]) -> None:
    net, x = prepared(small, True), images()[:, :3].contiguous(memory_format=torch.channels_last)
    assert torch.equal(again(net)(x), net(x)) and calls == [True, True]


def test_elsewhere_nothing_is_put_off(calls: list[bool]) -> None:
    net, x = prepared(small, True).eval(), images()[:, :3].contiguous(memory_format=torch.channels_last)
    weights = dict(net.named_parameters())
    with torch.inference_mode():
        expected = net(x)
    for run in (
        torch.compile(net, fullgraph=True, backend="eager"),
        torch.export.export(net, (x,)).module(),
        torch.jit.trace(net, x, check_trace=False),
        torch.func.vmap(lambda image: net(image[None])[0]),
        lambda x: torch.func.functional_call(net, weights, x),
        lambda x: torch.func.jvp(net, (x,), (x,))[0],
    ):
        torch.testing.assert_close(run(x), expected)
    assert calls == [True]  # of functional_call, which transforms nothing


def test_a_hook_sees_what_it_saw() -> None:
    net, seen = prepared(small, True), []
    net[1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    net(images()[:, :3].contiguous(memory_format=torch.channels_last))
    assert type(seen[0]) is Tensor and (seen[0] < 0).any()


@pytest.mark.parametrize("place", [1, 2], ids=["of_batch_norm", "of_relu"])
def test_hooks_on_gradients_see_what_they_saw(place: int) -> None:
    x, seen = images()[:, :3].contiguous(memory_format=torch.channels_last), []
    for feeds_relu in (True, False):
        net = copy.deepcopy(prepared(small, feeds_relu))
        net[place].register_full_backward_hook(lambda module, to_inputs, to_outputs: seen.append(to_inputs[0]))
        net(x).square().sum().backward()
    torch.testing.assert_close(*seen)


def test_a_hook_on_all_modules_sees_what_it_saw() -> None:
    net, seen = prepared(small, True), []
    x = images()[:, :3].contiguous(memory_format=torch.channels_last)
    with register_module_forward_hook(lambda module, inputs, output: seen.append(output)):
        net(x)
    assert len(seen) == 6 and all(type(output) is Tensor for output in seen)


def test_a_scripted_relu_takes_it() -> None:
    script: Any = torch.jit.script
    torch.testing.assert_close(script(nn.ReLU())(norm()(images())), F.relu(norm(False)(images())))


def test_statistics_of_a_result_that_nobody_asks_for_are_tracked() -> None:
    layer, expected = norm(), norm(feeds_relu=False)
    layer(images())
    expected(images())
    for own, true in zip(layer.eval().buffers(), expected.buffers(), strict=True):
        torch.testing.assert_close(own, true)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t)), repr, Tensor.numpy])
def test_a_result_is_copied_stored_and_printed_as_a_tensor(again: Callable[[Tensor], Any]) -> None:
    with torch.no_grad():
        given, expected = again(norm()(images())), again(norm()(images()).clone())
    assert type(given) is type(expected) and str(given) == str(expected)


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 2 * grad


def test_what_torch_does_not_notice_raises_rather_than_losing_a_gradient() -> None:
    y = norm()(images())
    result = Twice.apply(y)
    torch.testing.assert_close(result, 2 * norm(feeds_relu=False)(images()))
    with pytest.raises(RuntimeError, match=r"a gradient reached .* put off; clone it first, or set feeds_relu = False"):
        result.sum().backward()
    with torch._C.DisableTorchFunctionSubclass(), pytest.raises(RuntimeError, match="met the result of a batch norm"):
        torch.exp(norm()(images()))


def test_a_summand_changed_before_the_result_is_used_raises() -> None:
    r = images(1)
    with torch.no_grad():
        y = norm()(images()) + r
        r.zero_()
        with pytest.raises(RuntimeError, match="a summand was modified in place before the result was used"):
            F.relu(y)


def test_small_tensors_and_other_layouts_are_not_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = norm()
    assert type(layer(images().contiguous())) is Tensor
    monkeypatch.setattr(switchable_batch_norm, "WORTH_DEFERRING", images().numel() + 1)
    assert type(layer(images())) is Tensor
