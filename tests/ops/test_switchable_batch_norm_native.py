"""The compiled batch norm against float64, for one slab or several, and what it refuses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from slimkern.ops import native, switchable_batch_norm
from tests.ops.registration import check_registration
from tests.ops.truth import moments_of_parts

EPS = 1e-5
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}

pytestmark = pytest.mark.skipif(native.why_unavailable("cpu") is not None, reason=str(native.why_unavailable("cpu")))


@pytest.fixture(autouse=True)
def native_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIMKERN_BACKEND", "native")


@dataclass(frozen=True)
class Case:
    """Slabs of these channels, all of one batch and image."""

    channels: tuple[int, ...] = (8, 16, 24, 32)
    batch: int = 3
    image: tuple[int, ...] = (5, 7)
    relu: bool = True
    residual: bool = False
    running: bool = False
    affine: bool = True
    mean: float = 0.5
    misaligned: bool = False
    tiles: int = 0

    @property
    def offsets(self) -> list[int]:
        return [sum(self.channels[:place]) for place in range(len(self.channels))]

    def slab(self, channels: int, dtype: torch.dtype, device: str) -> Tensor:
        """Packed, at an address that is no multiple of 16 if `misaligned`."""
        shape = (self.batch, *self.image, channels)
        drawn = torch.empty(torch.Size(shape).numel() + self.misaligned, dtype=dtype, device=device)[
            self.misaligned :
        ].view(shape)
        return drawn.copy_(torch.randn(shape)).movedim(-1, 1)

    def tensors(self, dtype: torch.dtype, device: str = "cpu") -> dict[str, Any]:
        torch.manual_seed(len(self.channels) + self.batch)
        total = sum(self.channels)
        vectors = {
            "weight": torch.rand(total) + 0.5 if self.affine else None,
            "bias": torch.randn(total) if self.affine else None,
            "running_mean": torch.randn(total) if self.running else None,
            "running_var": torch.rand(total) + 0.5 if self.running else None,
        }
        slabs = [self.slab(channels, dtype, device).add_(self.mean) for channels in self.channels]
        return {name: None if vector is None else vector.to(device) for name, vector in vectors.items()} | {
            "slabs": slabs,
            "residuals": [self.slab(channels, dtype, device) for channels in self.channels] if self.residual else [],
            "moments": moments_of_parts(slabs, self.tiles, torch.float32) if self.tiles else None,
        }


CASES = {
    "four_widths": Case(),
    "four_widths_residual": Case(residual=True),
    "residual_without_relu": Case(residual=True, relu=False),
    "no_relu": Case(relu=False),
    "running": Case(running=True),
    "running_residual": Case(running=True, residual=True),
    "no_scale_and_shift": Case(affine=False),
    "one_channel": Case(channels=(1,)),
    "three_channels": Case(channels=(3,), residual=True),
    "seventeen_channels": Case(channels=(17, 34), residual=True),
    "sixty-four_channels_many_pixels": Case(channels=(64,), batch=16, image=(17, 16)),
    "2049_channels": Case(channels=(2049,), batch=3, image=(2, 3)),
    "batch_of_one": Case(batch=1, image=(3, 3)),
    "fewer_pixels_than_a_row_takes": Case(channels=(17,), batch=9, image=(1, 1)),
    "rows_of_features": Case(channels=(5, 10), batch=40, image=()),
    "misaligned": Case(misaligned=True, residual=True),
    "misaligned_odd_channels": Case(channels=(7,), misaligned=True),
    "moments": Case(tiles=7, residual=True),
    "moments_of_odd_channels": Case(channels=(3, 17), tiles=2),
    "large_tensor": Case(channels=(33,), batch=70, image=(31, 16), residual=True),
}


def assert_near(name: str, given: Tensor | None, truth: Tensor | None, tolerance: float) -> None:
    assert given is not None and truth is not None, f"{name} is missing"
    allowed = tolerance * (truth.abs() + truth.square().mean().sqrt())
    assert bool(((given.double() - truth).abs() <= allowed).all()), (
        f"{name}: error {((given.double() - truth).abs() / allowed).max().item() * tolerance:.1e} exceeds {tolerance}"
    )


def in_doubles(arguments: dict[str, Any]) -> dict[str, Any]:
    def double(tensor: Tensor) -> Tensor:
        return tensor.detach().double().requires_grad_()

    return {
        name: [double(tensor) for tensor in given]
        if isinstance(given, list)
        else None
        if given is None
        else double(given)
        for name, given in arguments.items()
    }


def true_result(exact: dict[str, Any], case: Case, place: int) -> tuple[Tensor, Tensor, Tensor]:
    """What goes into the ReLU, in float64, and the statistics."""
    x = exact["slabs"][place]
    own = slice(case.offsets[place], case.offsets[place] + x.shape[1])
    axes = [0, *range(2, x.dim())]
    shape = [1, -1] + [1] * (x.dim() - 2)
    mean = exact["running_mean"][own].detach() if case.running else x.mean(axes)
    variance = exact["running_var"][own].detach() if case.running else x.var(axes, correction=0)
    y = (x - mean.view(shape)) / (variance.view(shape) + EPS).sqrt()
    if case.affine:
        y = y * exact["weight"][own].view(shape) + exact["bias"][own].view(shape)
    return (y + exact["residuals"][place] if case.residual else y), mean, variance


def leaves(arguments: dict[str, Any]) -> dict[str, Tensor]:
    named = {
        f"{name} {place}": tensor for name in ("slabs", "residuals") for place, tensor in enumerate(arguments[name])
    }
    return named | {name: arguments[name] for name in ("weight", "bias") if arguments[name] is not None}


def check(case: Case, dtype: torch.dtype, tolerance: float, device: str = "cpu") -> None:
    arguments = case.tensors(dtype, device)
    exact = in_doubles(arguments)
    for leaf in leaves(arguments).values():
        leaf.requires_grad_()
    results, mean, variance = switchable_batch_norm(**arguments, offsets=case.offsets, eps=EPS, relu=case.relu)
    grads = [torch.randn_like(result) for result in results]
    torch.autograd.backward(results, grads)
    means, variances = [], []
    for place, (result, grad) in enumerate(zip(results, grads, strict=True)):
        true, *statistics = true_result(exact, case, place)
        assert result.dtype == dtype and native.is_packed(result)
        assert_near(f"result {place}", result, (true.relu() if case.relu else true).detach(), tolerance)
        # The result's own mask: where float64 is a rounding error away from zero, it may differ.
        true.backward(grad.double() * (result > 0 if case.relu else 1))
        means.append(statistics[0].detach())
        variances.append(statistics[1].detach())
    assert_near("mean", mean, torch.cat(means), 1e-6)
    assert_near("variance", variance, torch.cat(variances), 1e-5)
    for (name, leaf), true in zip(leaves(arguments).items(), leaves(exact).values(), strict=True):
        assert_near(f"gradient of {name}", leaf.grad, true.grad, tolerance)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_equals_float64(case: Case, dtype: torch.dtype) -> None:
    if case.misaligned:
        assert case.tensors(dtype)["slabs"][0].data_ptr() % 16
    check(case, dtype, TOLERANCE[dtype])


@st.composite
def cases(draw: st.DrawFn) -> Case:
    counts = st.one_of(st.integers(1, 70), st.integers(1, 2049))
    flags = {name: draw(st.booleans()) for name in ("relu", "residual", "running", "affine", "misaligned")}
    return Case(
        channels=tuple(draw(st.lists(counts, min_size=1, max_size=4))),
        batch=draw(st.integers(1, 5)),
        # At least 4 values a channel: the float64 of fewer is as ill-conditioned as their variance is small.
        image=draw(st.sampled_from([(2, 2), (1, 5), (3, 4)])),
        tiles=0 if flags["running"] else draw(st.integers(0, 3)),
        **flags,
    )


@given(case=cases(), dtype=st.sampled_from(list(TOLERANCE)))
def test_equals_float64_for_drawn_shapes(case: Case, dtype: torch.dtype) -> None:
    check(case, dtype, {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 4e-3}[dtype])


@pytest.mark.parametrize("tiles", [0, 64])
def test_a_mean_of_a_thousand_deviations(tiles: int) -> None:
    # The inputs themselves are rounded to 6e-5 deviations.
    check(Case(channels=(16, 24), batch=8, image=(16, 16), mean=1000.0, tiles=tiles), torch.float32, 1e-4)


@pytest.mark.parametrize("name", ["moments", "running_residual"])
def test_registration(name: str) -> None:
    case = CASES[name]
    arguments = case.tensors(torch.float32)
    for leaf in leaves(arguments).values():
        leaf.requires_grad_()
    check_registration(lambda: switchable_batch_norm(**arguments, offsets=case.offsets, relu=case.relu))


def test_outliers_don_t_spoil_the_variance() -> None:
    x = torch.randn(4, 8, 16, 16).contiguous(memory_format=torch.channels_last)
    x[0, :, 0, 0] = 1e4
    _, mean, variance = switchable_batch_norm([x], None, None, [0])
    assert_near("mean", mean, x.double().mean([0, 2, 3]), 1e-5)
    assert_near("variance", variance, x.double().var([0, 2, 3], correction=0), 1e-5)


@pytest.mark.parametrize("channels", [3, 16, 512])
@pytest.mark.parametrize("pixels", [16, 300, 3000])
def test_a_level_that_jumps_doesn_t_spoil_the_variance(channels: int, pixels: int) -> None:
    """The statistics are summed up around what the first pixels and all earlier blocks suggest, however wrong."""
    x = torch.randn(1, channels, 4096, 1).contiguous(memory_format=torch.channels_last)
    x[:, :, pixels:] += 1000
    _, mean, variance = switchable_batch_norm([x], None, None, [0])
    assert_near("mean", mean, x.double().mean([0, 2, 3]), 1e-5)
    assert_near("variance", variance, x.double().var([0, 2, 3], correction=0), 1e-5)


def test_equals_itself_with_any_number_of_threads() -> None:
    case = Case(channels=(17, 64), batch=40, image=(32, 16), residual=True)
    threads = torch.get_num_threads()
    outcomes = []
    try:
        for count in (1, 2, 3, 1):
            torch.set_num_threads(count)
            arguments = case.tensors(torch.float32)
            named = leaves(arguments)
            for leaf in named.values():
                leaf.requires_grad_()
            results, mean, variance = switchable_batch_norm(**arguments, offsets=case.offsets, relu=True)
            torch.autograd.backward(results, [result.detach().cos() for result in results])
            outcomes.append([*results, mean, variance, *(leaf.grad for leaf in named.values())])
    finally:
        torch.set_num_threads(threads)
    for outcome in outcomes[1:]:
        assert all(torch.equal(first, other) for first, other in zip(outcomes[0], outcome, strict=True))


def test_not_a_number_goes_through_the_relu() -> None:
    x = torch.zeros(2, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    x[0, 1, 0, 0] = torch.nan
    (result,), *statistics = switchable_batch_norm([x], None, None, [0], relu=True)
    assert bool(result[:, 1].isnan().all()) and not bool(result[:, [0, 2]].isnan().any())
    assert all(vector.isnan().tolist() == [False, True, False] for vector in statistics)


def test_equal_values_have_no_variance() -> None:
    x = torch.full((4, 5, 9, 9), 0.1).contiguous(memory_format=torch.channels_last)
    (result,), _, variance = switchable_batch_norm([x], None, None, [0])
    assert bool((result.abs() < 1e-4).all()) and bool((variance >= 0).all()) and bool((variance < 1e-12).all())


def test_moments_spare_the_pass_that_would_take_them() -> None:
    """Wrong ones show in the result: nobody has looked at the slabs."""
    case = CASES["moments"]
    arguments = case.tensors(torch.float32)
    (first, *_), *_ = switchable_batch_norm(**arguments, offsets=case.offsets)
    arguments["moments"][1] -= 100
    (second, *_), mean, _ = switchable_batch_norm(**arguments, offsets=case.offsets)
    assert bool((mean < -90).all()) and not torch.allclose(first, second, atol=1)


UNTAKEN: dict[str, dict[str, Any]] = {
    "float64": {"slabs": [torch.randn(2, 4, 3, 3, dtype=torch.float64)], "weight": torch.ones(4).double()},
    "contiguous": {"slabs": [torch.randn(2, 4, 3, 3)]},
    "every_other_row": {"slabs": [torch.randn(2, 3, 6, 4)[:, :, ::2].permute(0, 3, 1, 2)]},
    "bfloat16_scale": {
        "slabs": [torch.randn(2, 4, 3, 3).bfloat16().contiguous(memory_format=torch.channels_last)],
        "weight": torch.ones(4).bfloat16(),
    },
    "residual_of_another_dtype": {"residuals": [torch.randn(2, 4, 3, 3).double()]},
}


@pytest.mark.parametrize("changes", UNTAKEN.values(), ids=UNTAKEN.keys())
def test_what_the_kernels_do_not_take_goes_to_plain_torch(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = torch.randn(2, 4, 3, 3).contiguous(memory_format=torch.channels_last)
    arguments: dict[str, Any] = {"slabs": [packed], "weight": torch.ones(4), "bias": None, "offsets": [0]} | changes
    given = switchable_batch_norm(**arguments)
    monkeypatch.setenv("SLIMKERN_BACKEND", "torch")
    plain = switchable_batch_norm(**arguments)
    assert all(torch.equal(a, b) for a, b in zip([*given[0], *given[1:]], [*plain[0], *plain[1:]], strict=True))


def test_gradients_in_another_layout_are_packed() -> None:
    case = replace(CASES["four_widths"], channels=(8,))
    outcomes = []
    for layout in (torch.contiguous_format, torch.channels_last):
        arguments = case.tensors(torch.float32)
        (slab,) = arguments["slabs"]
        (result,), *_ = switchable_batch_norm(**arguments | {"slabs": [slab.requires_grad_()]}, offsets=[0], relu=True)
        result.backward(result.detach().cos().contiguous(memory_format=layout))
        outcomes.append(slab.grad)
    assert torch.equal(*outcomes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"slabs": []}, "slabs is empty"),
        ({"slabs": [torch.randn(2, 4, 3, 3)]}, "slabs must be packed"),
        ({"slabs": [torch.randn(0, 4)]}, "slabs holds an empty tensor"),
        ({"slabs": [torch.randn(2, 0)]}, "slabs holds an empty tensor"),
        ({"residuals": [torch.randn(2, 4, 0, 3)]}, "residuals holds an empty tensor"),
        ({"offsets": [1]}, "weight has 4 entries; 4 channels do not fit at 1"),
        ({"offsets": [0, 0]}, "2 offsets for 1 slabs"),
        ({"weight": torch.ones(4).double()}, "weight must be a contiguous vector of float32"),
        ({"running_mean": torch.ones(4)}, "give running_mean and running_var, or neither"),
        ({"moments": torch.ones(3, 0, 4)}, r"moments must be contiguous float32 \[3, tiles, 4\]"),
        ({"moments": torch.ones(3, 2, 5)}, r"moments must be contiguous float32 \[3, tiles, 4\]"),
    ],
    ids=lambda value: value.replace(" ", "_")[:30] if isinstance(value, str) else "",
)
def test_the_kernel_itself_refuses_what_would_read_elsewhere(changes: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {
        "slabs": [torch.randn(2, 4, 3, 3).contiguous(memory_format=torch.channels_last)],
        "weight": torch.ones(4),
        "bias": None,
        "offsets": [0],
        "running_mean": None,
        "running_var": None,
        "eps": EPS,
        "residuals": [],
        "relu": False,
        "moments": None,
    }
    with pytest.raises(RuntimeError, match=message):
        native.batch_norm_forward(**good | changes)


@pytest.mark.parametrize("shape", [(0, 4), (2, 0)])
def test_the_kernel_itself_refuses_the_gradient_of_nothing(shape: tuple[int, int]) -> None:
    slab, statistics = torch.randn(shape), torch.ones(shape[1])
    with pytest.raises(RuntimeError, match="slabs holds an empty tensor"):
        native.batch_norm_backward(
            [slab], [slab], [], None, None, [0], statistics, statistics, True, EPS, False, True, None, None
        )
