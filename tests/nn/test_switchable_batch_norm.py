from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimkern import SwitchableBatchNorm2d, WidthBatch, at_width, every_width
from slimkern.ops import backends

WIDTHS = (0.25, 0.5, 1.0)


def slabs(seed: int = 0, dtype: torch.dtype = torch.float64) -> WidthBatch:
    torch.manual_seed(seed)
    return WidthBatch([1 + 2 * torch.randn(3, count, 4, 5, dtype=dtype) for count in (2, 4, 8)], WIDTHS)


def layer_and_plain(**options: Any) -> tuple[SwitchableBatchNorm2d, list[nn.BatchNorm2d]]:
    """A layer, and what it stands for: a batch norm per width. Scales and shifts are random."""
    layer = SwitchableBatchNorm2d(8, **options, dtype=torch.float64, widths=WIDTHS)
    torch.manual_seed(2)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer, [layer.extract(width) for width in WIDTHS]


def assert_close(given: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(given, expected, rtol=1e-10, atol=1e-12)


OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "momentum_and_eps": {"momentum": 0.3, "eps": 0.1},
    "average": {"momentum": None},
    "no_affine": {"affine": False},
    "no_statistics": {"track_running_stats": False},
    "neither": {"affine": False, "track_running_stats": False},
}
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())


@every_option
def test_each_width_is_a_batch_norm_of_its_own(options: dict[str, Any]) -> None:
    layer, plain = layer_and_plain(**options)
    for step in range(4):
        for norm, slab, (_, result) in zip(plain, slabs(step).slabs, layer(slabs(step)), strict=True):
            assert_close(result, norm(slab))
    layer.eval()
    for norm, slab, (width, result) in zip(plain, slabs(9).slabs, layer(slabs(9)), strict=True):
        assert_close(result, norm.eval()(slab))
        for name, tensor in layer.extract(width).state_dict().items():
            assert_close(tensor, norm.state_dict()[name])


@every_option
def test_a_tensor_is_normalised_as_by_the_parent(options: dict[str, Any]) -> None:
    layer, plain = layer_and_plain(**options)
    x = slabs().at(1.0)
    for _ in range(2):
        assert_close(layer(x), plain[-1](x))
    assert_close(layer.eval()(x), plain[-1].eval()(x))


@pytest.mark.parametrize("momentum", [0.1, None], ids=["share", "average"])
def test_widths_that_are_not_seen_track_nothing(momentum: float | None) -> None:
    layer, plain = layer_and_plain(momentum=momentum)
    for step in range(2):
        given = slabs(step)
        seen = WidthBatch([given.slabs[0], given.slabs[2]], (0.25, 1.0))
        for norm, slab, (_, result) in zip(plain[::2], seen.slabs, layer(seen), strict=True):
            assert_close(result, norm(slab))
    for width, norm in zip(WIDTHS, plain, strict=True):
        for name, tensor in layer.extract(width).state_dict().items():
            assert_close(tensor, norm.state_dict()[name])


@pytest.mark.parametrize(
    "use",
    [
        lambda y, r: F.relu(y + r),
        lambda y, r: F.relu(y + r, inplace=True),
        lambda y, r: F.relu(y),
        lambda y, r: y + r,
        lambda y, r: F.relu(y) + r,
        lambda y, r: F.relu(y) + y * r,
    ],
    ids="add+relu add+relu_ relu add relu+add two_uses".split(),
)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_what_joins_the_batch_norm_changes_nothing(use: Callable[[Any, Any], Any], training: bool) -> None:
    layer, plain = layer_and_plain()
    inputs, residuals = slabs(0), slabs(1)
    leaves = [slab.requires_grad_() for slab in (*inputs.slabs, *residuals.slabs)]
    results = use(layer.train(training)(inputs), residuals)
    torch.autograd.backward([result.square().sum() for result in results.slabs])
    grads = [leaf.grad for leaf in leaves]
    for leaf in leaves:
        leaf.grad = None
    scales = []
    for norm, x, r, (_, result) in zip(plain, inputs.slabs, residuals.slabs, results, strict=True):
        expected = use(norm.train(training)(x), r)
        assert_close(result, expected)
        expected.square().sum().backward()
        scales.append(norm.weight.grad)
    for grad, leaf in zip(grads, leaves, strict=True):
        assert (grad is None) == (leaf.grad is None)
        if grad is not None and leaf.grad is not None:
            assert_close(grad, leaf.grad)
    assert layer.weight is not None and layer.weight.grad is not None
    assert_close(layer.weight.grad, torch.cat(scales))
    assert layer.num_batches_tracked is not None
    assert layer.num_batches_tracked.tolist() == [int(training)] * 3


def test_an_addend_of_another_shape_is_broadcast() -> None:
    layer, plain = layer_and_plain()
    addends: Any = slabs(1)
    pooled: Any = F.adaptive_avg_pool2d(addends, 1)
    results = F.relu(layer(slabs()) + pooled)
    for norm, slab, addend, (_, result) in zip(plain, slabs().slabs, pooled.slabs, results, strict=True):
        assert_close(result, F.relu(norm(slab) + addend))


def test_input_modified_in_place_later_does_not_change_the_output() -> None:
    layer, plain = layer_and_plain()
    given = slabs()
    results = layer(given)
    given += 1
    for norm, slab, (_, result) in zip(plain, slabs().slabs, results, strict=True):
        assert_close(result, norm(slab))


def test_a_slab_modified_behind_the_batchs_back_raises() -> None:
    given = slabs()
    results = layer_and_plain()[0](given)
    given.slabs[0].add_(1)
    with pytest.raises(RuntimeError, match="was modified in place before the result was used"):
        results.at(1.0)


def test_gradients_are_recorded_as_when_the_layer_was_called() -> None:
    layer, _ = layer_and_plain()
    with torch.no_grad():
        silent = layer(slabs())
    loud = layer(slabs())
    with torch.no_grad():
        assert loud.at(1.0).requires_grad
    assert not silent.at(1.0).requires_grad


def test_shared_input_with_whole_channels() -> None:
    norm = SwitchableBatchNorm2d(3, widths=2, whole=True)
    x = torch.randn(2, 3, 4, 4)
    results = norm(every_width(x))
    assert [width for width, _ in results] == [0.5, 1.0]
    for _, result in results:
        torch.testing.assert_close(result, nn.BatchNorm2d(3)(x))


def test_plain_state_loads_into_every_width() -> None:
    plain = nn.BatchNorm2d(8)
    plain(torch.randn(4, 8, 3, 3))
    nn.init.normal_(plain.weight)
    layer = SwitchableBatchNorm2d(8, widths=WIDTHS)
    layer.load_state_dict(plain.state_dict(), strict=True)
    for width, count in zip(WIDTHS, (2, 4, 8), strict=True):
        for name, tensor in layer.extract(width).state_dict().items():
            given = plain.state_dict()[name]
            assert torch.equal(tensor, given[:count] if given.dim() else given)


def test_own_state_loads_and_another_size_is_refused() -> None:
    layer, _ = layer_and_plain()
    layer(slabs()).at(1.0)
    other = SwitchableBatchNorm2d(8, dtype=torch.float64, widths=WIDTHS)
    other.load_state_dict(layer.state_dict())
    assert all(torch.equal(tensor, layer.state_dict()[name]) for name, tensor in other.state_dict().items())
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        other.load_state_dict(nn.BatchNorm2d(4).state_dict())


def test_arguments_come_in_the_parents_order() -> None:
    arguments = (8, 1e-3, 0.2, False, False, "meta", torch.float64)
    layer, plain = SwitchableBatchNorm2d(*arguments), nn.BatchNorm2d(*arguments)
    for name in ("num_features", "eps", "momentum", "affine", "track_running_stats", "weight", "running_mean"):
        assert getattr(layer, name) == getattr(plain, name)


def test_from_parent_keeps_dtype_mode_and_what_is_frozen() -> None:
    plain = nn.BatchNorm2d(8, momentum=None, dtype=torch.float64).eval()
    plain.bias.requires_grad_(False)
    layer = SwitchableBatchNorm2d.from_parent(plain, WIDTHS)
    assert layer.weight is not None and layer.bias is not None
    assert layer.weight.dtype == torch.float64 and layer.momentum is None and not layer.training
    assert layer.weight.requires_grad and not layer.bias.requires_grad and not layer.extract(0.5).bias.requires_grad


def test_resetting_starts_again() -> None:
    layer, _ = layer_and_plain()
    layer(slabs()).at(1.0)
    layer.reset_parameters()
    fresh = SwitchableBatchNorm2d(8, dtype=torch.float64, widths=WIDTHS).state_dict()
    assert all(torch.equal(tensor, fresh[name]) for name, tensor in layer.state_dict().items())


def test_repr_tells_arguments_widths_and_backend() -> None:
    backend = backends.choose("switchable_batch_norm", "cpu")
    assert repr(SwitchableBatchNorm2d(3, momentum=None, widths=2, whole=True)) == (
        "SwitchableBatchNorm2d(3, eps=1e-05, momentum=None, affine=True, track_running_stats=True, widths=(0.5, 1.0), "
        f"whole, backend={backend})"
    )


@pytest.mark.parametrize(
    ("backend", "message"),
    [("triton", "switchable_batch_norm on cpu has no such backend"), ("cuda", "unknown: .* torch, triton, native")],
)
def test_a_backend_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, backend: str, message: str) -> None:
    layer, _ = layer_and_plain()
    monkeypatch.setenv("SLIMKERN_BACKEND", backend)
    with pytest.raises(ValueError, match=f"SLIMKERN_BACKEND={backend}.*{message}"):
        _ = layer(slabs()).slabs


def test_channels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"num_features=6 can't be cut into the 4 blocks .* or pass whole=True"):
        SwitchableBatchNorm2d(6)
    layer, _ = layer_and_plain()
    with pytest.raises(
        ValueError, match=r"8 channels and widths .* takes slabs of \[4\] channels, but was given \[8\]"
    ):
        layer(at_width(slabs().at(1.0), 0.5))
    with pytest.raises(
        ValueError, match=r"of 8 channels takes a tensor of as many, but was given shape \(3, 4, 4, 5\)"
    ):
        layer(slabs().at(0.5))
