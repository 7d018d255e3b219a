"""The batch norm on a GPU, beside float64."""

from __future__ import annotations

import pytest
import torch

from slimkern.ops import switchable_batch_norm
from tests.ops.test_switchable_batch_norm_native import CASES, TOLERANCE, Case, check, leaves

MOST_ROWS = 16
"""Slabs that one launch takes."""

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def native_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIMKERN_BACKEND", "native")


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_equals_float64(case: Case, dtype: torch.dtype) -> None:
    check(case, dtype, TOLERANCE[dtype], "cuda")


@pytest.mark.parametrize("tiles", [0, 64])
def test_a_mean_of_a_thousand_deviations_in_float32(tiles: int) -> None:
    # The inputs themselves are rounded to 6e-5 deviations.
    check(Case(channels=(16, 24), batch=8, image=(16, 16), mean=1000.0, tiles=tiles), torch.float32, 1e-4, "cuda")


@pytest.mark.parametrize("tiles", [0, 5])
@pytest.mark.parametrize("slabs", [MOST_ROWS, 2 * MOST_ROWS + 1])
def test_more_slabs_than_a_launch_takes_in_float32(slabs: int, tiles: int) -> None:
    check(Case(channels=tuple(range(4, 4 + slabs)), residual=True, tiles=tiles), torch.float32, 1e-5, "cuda")


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", ["four_widths_residual", "moments", "large_tensor", "misaligned_odd_channels"])
def test_equals_itself_when_run_again(name: str, dtype: torch.dtype) -> None:
    outcomes = []
    for _ in range(2):
        arguments = CASES[name].tensors(dtype, "cuda")
        named = leaves(arguments)
        for leaf in named.values():
            leaf.requires_grad_()
        results, mean, variance = switchable_batch_norm(**arguments, offsets=CASES[name].offsets, relu=True)
        torch.autograd.backward(results, [result.detach().cos() for result in results])
        outcomes.append([*results, mean, variance, *(leaf.grad for leaf in named.values())])
    for first, second in zip(*outcomes, strict=True):
        assert torch.equal(first, second)
