"""`scroll_conv2d_batch_norm` where Triton convolves: its batch norm takes the moments that the kernel noted."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor

from slimkern.kernels import scroll_conv2d, scroll_conv2d_stem
from slimkern.ops import native
from slimkern.ops.batch_norm import BatchNorm
from tests.kernels.interpreted.test_operators import measured
from tests.ops.registration import check_registration
from tests.ops.test_scroll_conv2d_batch_norm import Case, leaves
from tests.ops.truth import assert_near

CASES = {
    "scrolled_residual_relu": Case(8, 8, scroll=3, residual=True, relu=True),
    "bias_stride": Case(8, 16, scroll=2, bias=True, stride=2, relu=True),
    "residual": Case(8, 8, residual=True, affine=False),
    "running_statistics": Case(8, 8, scroll=1, running=True, bias=True, relu=True),
    "one_width": Case(16, 8, scroll=3, blocks=(2,)),
    "one_width_of_few_channels": Case(1, 8, blocks=(4,), relu=True),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@pytest.fixture(autouse=True)
def triton_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIMKERN_BACKEND", "triton,torch")


def outcome(case: Case, given: dict[str, Any]) -> dict[str, Tensor]:
    """Results, statistics, and gradients of a loss that reads the convolution's results as well."""
    results, convolved, mean, variance = case.run(given)
    torch.stack([y.cos().sum() for y in [*results, *convolved]]).sum().backward()
    found = {"mean": mean, "variance": variance}
    found |= {f"result {place}": own.detach() for place, own in enumerate([*results, *convolved])}
    learned = [("weight", "bias", "scale", "shift"), ("slabs", "residuals")]
    found |= {f"gradient of {name}": given[name].grad for name in learned[0] if given[name] is not None}
    return found | {f"gradient of {name} {i}": own.grad for name in learned[1] for i, own in enumerate(given[name])}


def check(case: Case) -> None:
    given = leaves(case.tensors(torch.float32), torch.float32)
    with pytest.warns(UserWarning, match="torch serves a call that Triton doesn't take: torch.float64"):
        truths = outcome(case, leaves(given, torch.float64))
    found = outcome(case, given)
    assert found.keys() == truths.keys()
    for name, true in truths.items():
        assert_near(name, found[name], true, 1e-4)


@pytest.mark.parametrize("norm", ["native", "torch"])
@every_case
def test_equals_float64(case: Case, norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if norm == "native" and (reason := native.why_unavailable("cpu")):
        pytest.skip(reason)
    monkeypatch.setenv("SLIMKERN_BACKEND", f"triton,{norm}")
    check(case)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def test_statistics_are_those_of_the_rounded_results(dtype: torch.dtype) -> None:
    case = Case(8, 8, scroll=1, bias=True)
    _, convolved, mean, variance = case.run(leaves(case.tensors(torch.float32), dtype))
    pixelwise = torch.cat([own.detach().double().movedim(1, -1).flatten(0, 2) for own in convolved], 1)
    assert convolved[0].dtype == dtype and mean.dtype == variance.dtype == torch.float32
    assert_near("mean", mean, pixelwise.mean(0), 1e-5)
    assert_near("variance", variance, pixelwise.var(0, unbiased=False), 1e-5)


def doctored(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Have the kernels' moments say that means are larger by three; gives the list of whether they were asked for."""
    asked: list[bool] = []

    def patch(module: Any, name: str) -> None:
        forward = getattr(module, name)

        def doctor(*arguments: Any) -> tuple[list[Tensor], Tensor | None]:
            results, moments = forward(*arguments)
            asked.append(moments is not None)
            if moments is not None:
                moments[1] += 3
            return results, moments

        monkeypatch.setattr(module, name, doctor)

    patch(scroll_conv2d, "forward")
    patch(scroll_conv2d_stem, "forward_shared")
    return asked


@pytest.mark.parametrize("way", ["in place", "packed"])
@pytest.mark.parametrize("name", ["bias_stride", "one_width_of_few_channels"])
def test_the_batch_norm_takes_the_moments_at_their_word(name: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    given = leaves(case.tensors(torch.float32), torch.float32)
    measured(monkeypatch, way)
    _, convolved, mean, variance = case.run(given)
    asked = doctored(monkeypatch)
    results, same, moved, spread = case.run(given)
    assert asked == [True]
    assert_near("mean", moved, mean.double() + 3, 1e-5)
    assert_near("variance", spread, variance.double(), 1e-5)
    assert all(torch.equal(own, other) for own, other in zip(convolved, same, strict=True))
    scale, shift = given["scale"], given["shift"]
    for y, result, offset, m, v in zip(
        same, results, case.offsets, *(own.split(case.out_channels) for own in (moved, spread)), strict=True
    ):
        own = slice(offset, offset + y.shape[1])
        rows = [vector[None, :, None, None].double() for vector in (m, v, scale[own], shift[own])]
        true = ((y - rows[0]) / (rows[1] + 1e-3).sqrt() * rows[2] + rows[3]).relu()
        assert_near("result", result.detach(), true.detach(), 1e-5)


def test_running_statistics_ask_for_no_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = doctored(monkeypatch)
    check(CASES["running_statistics"])
    assert asked == [False]


def test_statistics_are_taken_where_torch_was_measured_to_be_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    served, asked, known = measured(monkeypatch, "torch"), doctored(monkeypatch), []
    apply_all = BatchNorm.apply_all

    def noting(norm: BatchNorm, *arguments: Any) -> Any:
        known.append(arguments[-1])
        return apply_all(norm, *arguments)

    monkeypatch.setattr(BatchNorm, "apply_all", noting)
    check(CASES["bias_stride"])
    assert set(served) == {"torch"} and asked == [] and set(known) == {None}


def test_a_weight_is_packed_once_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    served = measured(monkeypatch, "packed")
    packing = importlib.import_module("slimkern.ops.pack_weights")
    packed, flat_of = [], packing.flat_of
    monkeypatch.setattr(packing, "flat_of", lambda *given: packed.append(given) or flat_of(*given))
    for name in ("scrolled_residual_relu", "residual"):
        served.clear()
        packed.clear()
        check(CASES[name])
        assert served == ["packed", "packed", "in place"] and len(packed) == 1


@pytest.mark.filterwarnings("ignore:.*torch serves")
@pytest.mark.parametrize("name", ["scrolled_residual_relu", "running_statistics"])
def test_registration(name: str) -> None:
    case = CASES[name]
    check_registration(lambda: outcome(case, leaves(case.tensors(torch.float32), torch.float32)))


def test_compiles_into_one_graph() -> None:
    case = Case(8, 8, scroll=3, bias=True, residual=True, relu=True)
    compiled = torch.compile(case.run, fullgraph=True)
    found = []
    for run in (case.run, compiled):
        given = leaves(case.tensors(torch.float32), torch.float32)
        results, _, mean, variance = run(given)
        sum((result.square().sum() for result in results), torch.zeros(())).backward()
        found.append([*results, mean, variance, given["weight"].grad, *(slab.grad for slab in given["slabs"])])
    for own, other in zip(*found, strict=True):
        assert torch.equal(own, other) and own.stride() == other.stride()
