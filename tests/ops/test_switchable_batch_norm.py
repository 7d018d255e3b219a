from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from slimkern.ops import switchable_batch_norm
from tests.ops import truth
from tests.ops.registration import check_registration

EPS = 1e-3


@dataclass(frozen=True)
class Case:
    """A call: the channels of all widths, which of them the slabs belong to, and what is done to the slabs."""

    sizes: tuple[int, ...] = (2, 4, 6, 8)
    places: tuple[int, ...] = (0, 1, 2, 3)
    running: bool = False
    affine: bool = True
    residual: bool = False
    relu: bool = False
    image: tuple[int, ...] = (3, 5)
    packed: bool = True
    tiles: int = 0

    @property
    def offsets(self) -> list[int]:
        return [sum(self.sizes[:place]) for place in self.places]

    def tensors(self, dtype: torch.dtype) -> dict[str, Any]:
        torch.manual_seed(0)

        def slabs() -> list[Tensor]:
            drawn = [torch.randn(2, self.sizes[place], *self.image, dtype=dtype) for place in self.places]
            return [slab.contiguous(memory_format=torch.channels_last) if self.packed else slab for slab in drawn]

        total = sum(self.sizes)
        weight, bias, mean = torch.randn(3, total, dtype=dtype)
        own = [2 * slab + 1 for slab in slabs()]
        return {
            "slabs": own,
            "weight": weight.clone() if self.affine else None,
            "bias": bias.clone() if self.affine else None,
            "running_mean": mean.clone() if self.running else None,
            "running_var": torch.rand(total, dtype=dtype) + 0.5 if self.running else None,
            "residuals": slabs() if self.residual else [],
            "moments": self.moments(own),
        }

    def moments(self, slabs: Sequence[Tensor]) -> Tensor | None:
        return truth.moments_of_parts(slabs, self.tiles, slabs[0].dtype) if self.tiles else None


CASES = {
    "batch_statistics": Case(),
    "running_statistics": Case(running=True),
    "batch_statistics_residual_relu": Case(residual=True, relu=True),
    "running_statistics_residual_relu": Case(running=True, residual=True, relu=True),
    "residual_alone": Case(residual=True),
    "relu_alone": Case(relu=True),
    "without_scale_and_shift": Case(affine=False, residual=True, relu=True),
    "running_without_scale_and_shift": Case(affine=False, running=True),
    "subset_of_widths": Case(places=(0, 2), relu=True),
    "widest_alone": Case(places=(3,), running=True),
    "uneven_widths": Case(sizes=(1, 2, 4), places=(0, 1, 2), residual=True),
    "contiguous_input": Case(packed=False, residual=True, relu=True),
    "two_axes": Case(image=(), packed=False, sizes=(2, 3), places=(0, 1), running=True),
    "moments": Case(tiles=4, relu=True, residual=True),
    "moments_of_one_part": Case(tiles=1, packed=False),
    "moments_of_empty_parts": Case(tiles=40),
    "one_row_of_pixels": Case(image=(1, 9), sizes=(1, 2), places=(0, 1)),
}


def flat(arguments: dict[str, Any]) -> list[Tensor]:
    """The tensors that gradients are wanted of."""
    vectors = [arguments[name] for name in ("weight", "bias") if arguments[name] is not None]
    return [*arguments["slabs"], *arguments["residuals"], *vectors]


def true_results(case: Case, arguments: dict[str, Any]) -> list[Tensor]:
    results = []
    for place, (slab, offset) in enumerate(zip(arguments["slabs"], case.offsets, strict=True)):
        own: dict[str, Any] = {
            name: None if arguments[name] is None else arguments[name][offset : offset + slab.shape[1]]
            for name in ("weight", "bias", "running_mean", "running_var")
        }
        statistics = (own["running_mean"], own["running_var"]) if case.running else None
        residual = arguments["residuals"][place] if case.residual else None
        results.append(truth.batch_norm(slab, own["weight"], own["bias"], EPS, statistics, residual, case.relu))
    return results


def in_doubles(arguments: dict[str, Any]) -> dict[str, Any]:
    return {
        name: truth.doubles(given) if isinstance(given, list) else None if given is None else truth.doubles([given])[0]
        for name, given in arguments.items()
    }


def check(case: Case, dtype: torch.dtype) -> None:
    arguments = case.tensors(dtype)
    exact = in_doubles(arguments)
    leaves = [leaf.requires_grad_() for leaf in flat(arguments)]
    results, mean, variance = switchable_batch_norm(**arguments, offsets=case.offsets, eps=EPS, relu=case.relu)
    truths = true_results(case, exact)
    grads = [torch.randn_like(result) for result in results]
    torch.autograd.backward(results, grads)
    torch.autograd.backward(truths, [grad.double() for grad in grads])
    for place, (result, true) in enumerate(zip(results, truths, strict=True)):
        truth.assert_near(f"output {place}", result, true)
        assert not case.packed or result.is_contiguous(memory_format=torch.channels_last)
    for place, (leaf, true) in enumerate(zip(leaves, flat(exact), strict=True)):
        truth.assert_near(f"gradient {place} of slabs, residuals, weight and bias", leaf.grad, true.grad)
    if not case.running:
        moments = [truth.moments(slab[:, c]) for slab in exact["slabs"] for c in range(slab.shape[1])]
        truth.assert_near("mean", mean, torch.stack([moment[0] for moment in moments]))
        truth.assert_near("variance", variance, torch.stack([moment[1] for moment in moments]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_equals_the_definition(case: Case, dtype: torch.dtype) -> None:
    check(case, dtype)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    sizes = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    places = sorted(draw(st.sets(st.integers(0, len(sizes) - 1), min_size=1)))
    flags = {name: draw(st.booleans()) for name in ("running", "affine", "residual", "relu", "packed")}
    image = draw(st.tuples(st.integers(2, 5), st.integers(2, 5)))
    tiles = 0 if flags["running"] else draw(st.integers(0, 3))
    return Case(tuple(sizes), tuple(places), image=image, tiles=tiles, **flags)


@given(cases())
def test_equals_the_definition_for_drawn_shapes(case: Case) -> None:
    check(case, torch.float64)


def test_gradients_of_other_widths_are_exactly_zero() -> None:
    case = CASES["subset_of_widths"]
    arguments = case.tensors(torch.float32)
    weight, bias = arguments["weight"].requires_grad_(), arguments["bias"].requires_grad_()
    results, *_ = switchable_batch_norm(**arguments, offsets=case.offsets)
    torch.stack([result.pow(3).sum() for result in results]).sum().backward()
    seen = {0, 1, *range(6, 12)}
    for vector in (weight, bias):
        assert {place for place in range(20) if vector.grad[place] != 0} == seen


@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
@pytest.mark.parametrize("name", ["batch_statistics_residual_relu", "running_statistics_residual_relu", "moments"])
def test_gradients_and_their_gradients(name: str, check: Callable[..., bool]) -> None:
    case = CASES[name]
    arguments = case.tensors(torch.float64)
    count = len(case.places)

    def function(*leaves: Tensor) -> tuple[Tensor, ...]:
        slabs, residuals, (weight, bias) = leaves[:count], leaves[count:-2], leaves[-2:]
        changed: dict[str, Any] = arguments | {"slabs": slabs, "residuals": residuals, "weight": weight, "bias": bias}
        changed["moments"] = case.moments(slabs)
        return tuple(switchable_batch_norm(**changed, offsets=case.offsets, eps=EPS, relu=case.relu)[0])

    leaves = [leaf.requires_grad_() for leaf in flat(arguments)]
    assert check(function, leaves, fast_mode=True)


@pytest.mark.parametrize(
    "name", ["batch_statistics_residual_relu", "running_statistics", "without_scale_and_shift", "moments"]
)
def test_registration(name: str) -> None:
    case = CASES[name]
    arguments = case.tensors(torch.float32)
    for leaf in flat(arguments):
        leaf.requires_grad_()
    check_registration(lambda: switchable_batch_norm(**arguments, offsets=case.offsets, eps=EPS, relu=case.relu))


def test_moments_are_taken_at_their_word() -> None:
    case = CASES["moments"]
    arguments = case.tensors(torch.float64)
    arguments["moments"][1] += 3
    _, mean, variance = switchable_batch_norm(**arguments, offsets=case.offsets)
    _, own_mean, own_variance = switchable_batch_norm(**arguments | {"moments": None}, offsets=case.offsets)
    torch.testing.assert_close(mean, own_mean + 3)
    torch.testing.assert_close(variance, own_variance)


def test_moments_of_a_mean_far_above_the_deviation() -> None:
    slab = torch.randn(8, 5, 16, 16, dtype=torch.float64) + 1000
    moments = truth.moments_of_parts([slab], 16, torch.float32)
    _, mean, variance = switchable_batch_norm([slab.float()], None, None, [0], moments=moments)
    truth.assert_near("mean", mean, slab.mean([0, 2, 3]), 1e-6)
    truth.assert_near("variance", variance, slab.var([0, 2, 3], correction=0), 1e-5)


def test_bfloat16_slabs_with_float32_parameters() -> None:
    case = CASES["batch_statistics_residual_relu"]
    arguments = case.tensors(torch.float32)
    low: dict[str, Any] = arguments | {
        name: [slab.bfloat16() for slab in arguments[name]] for name in ("slabs", "residuals")
    }
    leaves = [leaf.requires_grad_() for leaf in flat(low)]
    results, mean, variance = switchable_batch_norm(**low, offsets=case.offsets, eps=EPS, relu=True)
    for result, true in zip(results, true_results(case, in_doubles(low)), strict=True):
        assert result.dtype == torch.bfloat16
        truth.assert_near("output", result, true.detach(), tolerance=0.05)
    assert mean.dtype == variance.dtype == torch.float32
    torch.autograd.backward(results, [torch.ones_like(result) for result in results])
    assert all(leaf.grad is not None and leaf.grad.dtype == leaf.dtype for leaf in leaves)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"slabs": [], "offsets": []}, "slabs is empty; at least one slab is needed"),
        ({"slabs": [torch.ones(0, 2, 3, 3)]}, r"slabs\[0\] of shape \(0, 2, 3, 3\) is empty"),
        ({"weight": torch.ones(8, device="meta")}, "weight is torch.float32 on meta, the slabs are torch.float32 on"),
        ({"bias": torch.ones(4)}, "bias has 4 entries; .*2 channels .*6"),
        ({"offsets": [-1]}, "weight has 8 entries; .*2 channels .*-1"),
        ({"running_mean": torch.zeros(8)}, "give running_mean and running_var both, or neither"),
        ({"moments": torch.ones(3, 4, 3)}, r"moments have shape \(3, 4, 3\); it must be \(3, tiles, 2\)"),
        ({"moments": torch.ones(3, 0, 2)}, r"moments have shape \(3, 0, 2\)"),
        (
            {"moments": torch.ones(3, 4, 2).double()},
            "moments are torch.float64 on cpu; .* must be torch.float32 on cpu",
        ),
        (
            {"moments": torch.ones(3, 4, 2), "running_mean": torch.zeros(8), "running_var": torch.ones(8)},
            "give moments or running statistics, not both",
        ),
        ({"slabs": [torch.ones(1, 2, 1, 1)]}, r"a batch of shape \(1, 2, 1, 1\) has one value a channel, so no var"),
        (
            {"residuals": [torch.ones(2, 2, 1, 1)]},
            r"residuals of shapes \[\(2, 2, 1, 1\)\] must match .*\[\(2, 2, 3, 3\)\]",
        ),
    ],
    ids=lambda value: value[:40].replace(" ", "_") if isinstance(value, str) else "",
)
def test_bad_arguments_are_named(changes: dict[str, Any], message: str) -> None:
    good = {"slabs": [torch.randn(2, 2, 3, 3)], "weight": torch.ones(8), "bias": torch.ones(8), "offsets": [6]}
    switchable_batch_norm(**good)
    with pytest.raises(ValueError, match=f"switchable_batch_norm: .*{message}"):
        switchable_batch_norm(**(good | changes))
