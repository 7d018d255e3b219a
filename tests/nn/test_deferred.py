"""Work that is put off gives what it would have given at once, whatever happens in between."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimkern import ScrollConv2d, SwitchableBatchNorm2d, WidthBatch, every_width
from tests.ops.truth import assert_near


def layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        ScrollConv2d(3, 8, 3, padding=1, widths=2, whole_in=True),
        ScrollConv2d(8, 8, 3, padding=1, widths=2),
        SwitchableBatchNorm2d(8, widths=2),
    )


def images(seed: int = 0) -> Tensor:
    return torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(seed))


def at_once(net: nn.Module, x: WidthBatch) -> WidthBatch:
    """Each layer's slabs asked for before the next layer runs."""
    for layer in net:  # type: ignore[union-attr]
        x = layer(x)
        assert x.slabs
    return x


@pytest.mark.parametrize(
    "follow",
    [
        lambda y, x: F.relu(y),
        lambda y, x: F.relu(y, inplace=True),
        lambda y, x: F.hardtanh(y, inplace=True),
        lambda y, x: F.silu(y, inplace=True),
        lambda y, x: y + x,
        lambda y, x: F.relu(x + y),
        lambda y, x: y.add_(x).relu_(),
        lambda y, x: y * y + y,
    ],
    ids=["relu", "relu_", "hardtanh_", "silu_", "add", "add_relu", "add_relu_in_place", "used_thrice"],
)
def test_convolution_batch_norm_and_what_follows(follow: Callable[[WidthBatch, WidthBatch], WidthBatch]) -> None:
    grads, outputs = [], []
    for run in (lambda net, x: net[1:](x), lambda net, x: at_once(net[1:], x)):
        net = layers()
        x = net[0](every_width(images()))
        y = follow(run(net, x), x)
        torch.stack([slab.square().sum() for slab in y.slabs]).sum().backward()
        outputs.append([slab.detach().double() for slab in y.slabs])
        grads.append([parameter.grad.double() for parameter in net.parameters()])
        grads[-1] += [net[2].running_mean.double(), net[2].running_var.double()]
    for name, (joined, alone) in {"output": outputs, "gradient": grads}.items():
        for place, (own, true) in enumerate(zip(joined, alone, strict=True)):
            assert_near(f"{name} {place}", own, true, 1e-4)


READINGS: dict[str, Callable[[WidthBatch, SwitchableBatchNorm2d], WidthBatch]] = {
    "norm_first": lambda y, norm: F.relu(norm(y)) + y,
    "norm_last": lambda y, norm: y * F.relu(norm(y)),
    "norm_asked_for_last": lambda y, norm: (z := norm(y), F.relu(y))[1] + z,
    "norm_copied": lambda y, norm: (z := norm(y)) + F.relu(z) + y,
    "norm_twice": lambda y, norm: norm(y) + F.silu(norm(y)),
}


@pytest.mark.parametrize("reading", READINGS.values(), ids=READINGS.keys())
def test_a_convolution_that_is_read_twice_is_computed_once(
    reading: Callable[[WidthBatch, SwitchableBatchNorm2d], WidthBatch],
) -> None:
    grads, outputs = [], []
    for settle in (False, True):
        net = layers()
        x = net[0](every_width(images()))
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            y = net[1](x)
            assert not settle or y.slabs
            z = reading(y, net[2])
            torch.stack([slab.square().sum() for slab in z.slabs]).sum().backward()
        assert sum(event.count for event in profile.key_averages() if event.key == "aten::convolution") == 2
        outputs.append([slab.detach().double() for slab in z.slabs])
        grads.append([parameter.grad.double() for parameter in net.parameters()] + [net[2].running_mean.double()])
    for name, (put_off, alone) in {"output": outputs, "gradient": grads}.items():
        for place, (own, true) in enumerate(zip(put_off, alone, strict=True)):
            assert_near(f"{name} {place}", own, true, 1e-4)


@torch.no_grad()
def test_a_convolution_changed_in_place_later_does_not_change_the_result() -> None:
    net = layers().eval()
    x = net[0](every_width(images()))
    expected = at_once(net[1:], x) * 2
    y = net[1](x)
    z = net[2](y)
    doubled = z + z
    y.mul_(3)
    for own, true in zip(doubled.slabs, expected.slabs, strict=True):
        torch.testing.assert_close(own, true)


def test_a_convolution_called_without_gradients_gets_none() -> None:
    net = layers()
    x = net[0](every_width(images()))
    with torch.no_grad():
        y = net[1](x)
    torch.stack([slab.square().sum() for slab in net[2](y).slabs]).sum().backward()
    assert net[1].weight.grad is None and net[0].weight.grad is None and net[2].weight.grad is not None


def test_a_weight_changed_before_the_result_is_asked_for_raises() -> None:
    net = layers()
    y = net(every_width(images()))
    with torch.no_grad():
        net[1].weight.mul_(2)
    with pytest.raises(
        RuntimeError, match=r"a weight or a result of a ScrollConv2d was modified in place before the result was used"
    ):
        _ = y.slabs


def test_statistics_are_tracked_in_the_order_of_the_calls() -> None:
    results = []
    for ask in ((0, 1), (1, 0)):
        net = layers()
        batches = [net(every_width(images(seed))) for seed in range(2)]
        for place in ask:
            assert batches[place].slabs
        results.append(net[2].running_mean.clone())
    assert torch.equal(*results)


@pytest.mark.parametrize("read", [lambda net: net.eval(), lambda net: net.state_dict(), copy.deepcopy])
def test_statistics_of_a_result_that_nobody_asks_for_are_tracked(read: Callable[[nn.Module], object]) -> None:
    net, expected = layers(), layers()
    net(every_width(images()))
    at_once(expected, every_width(images()))
    read(net)
    assert torch.equal(net[2].running_mean, expected[2].running_mean)
    assert net[2].num_batches_tracked.tolist() == [1, 1]


def test_modes_are_those_of_the_call() -> None:
    net = layers()
    x = net[0](every_width(images()))
    outside = net[1](x)
    with torch.autocast("cpu", torch.bfloat16):
        inside = net[1](x)
        assert outside.dtype == torch.float32
    assert inside.dtype == torch.bfloat16
    kept = net[1](x)
    with torch.no_grad():
        free = net[1](x)
        assert all(slab.requires_grad for slab in kept.slabs)
    assert not any(slab.requires_grad for slab in free.slabs)
    kept = net[1](x)
    with torch.inference_mode():
        assert all(slab.requires_grad for slab in kept.slabs)


def test_in_inference_mode_nothing_is_put_off() -> None:
    net = layers().eval()
    with torch.inference_mode():
        x = net[0](every_width(images()))
        aliased = F.dropout(x, 0.5, False)
        y = net[1](x)
        F.relu_(aliased)
        expected = net[1](net[0](every_width(images())))
    for own, true in zip(y.slabs, expected.slabs, strict=True):
        assert torch.equal(own, true)


def test_an_alias_changed_in_place_does_not_change_the_result() -> None:
    net = layers().eval()
    x = net[0](every_width(images()))
    expected = [slab.clone() for slab in net[1](x).slabs]
    aliased = x.detach()
    y = net[1](x)
    aliased.relu_()
    assert all(torch.equal(own, true) for own, true in zip(y.slabs, expected, strict=True))


@pytest.mark.parametrize("again", [copy.deepcopy, lambda batch: pickle.loads(pickle.dumps(batch))])
def test_a_batch_can_be_copied_and_stored(again: Callable[[WidthBatch], WidthBatch]) -> None:
    with torch.no_grad():
        batch = layers()(every_width(images()))
        copied = again(batch)
    assert copied.widths == batch.widths
    assert all(torch.equal(own, true) for own, true in zip(copied.slabs, batch.slabs, strict=True))


def zero_fills(run: Callable[[], object], shape: list[int]) -> int:
    """How often a tensor of this shape is filled with zeros, inside operators too."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profile:
        run()
    events = profile.key_averages(group_by_input_shape=True)
    return sum(event.count for event in events if event.key == "aten::zero_" and event.input_shapes[0] == shape)


def test_the_weights_gradient_takes_no_zero_filled_tensor_of_full_size() -> None:
    shape = [8, 8, 3, 3]
    assert zero_fills(lambda: torch.zeros_like(torch.ones(shape)), shape) == 1
    for scroll in range(2):
        net = layers()
        net[1].scroll = scroll
        y = net(every_width(images()))
        loss = torch.stack([slab.square().sum() for slab in y.slabs]).sum()
        assert zero_fills(loss.backward, shape) == 0
        assert net[1].weight.grad.isfinite().all()


def test_a_batch_that_can_no_longer_be_tracked_is_left_out_with_a_warning() -> None:
    net = layers()
    unused = net(every_width(images()))
    with torch.no_grad():
        net[1].weight.mul_(2)
    with pytest.warns(UserWarning, match="miss a batch whose result was never used: .* modified in place"):
        net(every_width(images())).slabs  # noqa: B018
    assert net[2].num_batches_tracked.tolist() == [1, 1]
    with pytest.raises(RuntimeError, match="modified in place"):
        unused.slabs  # noqa: B018


def test_loaded_statistics_are_not_moved_by_an_earlier_batch() -> None:
    net = layers()
    stored = copy.deepcopy(net.state_dict())
    unused = net(every_width(images()))
    net.load_state_dict(stored)
    net.eval()(every_width(images()))
    del unused
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(tensor, stored[name], rtol=0, atol=0)
