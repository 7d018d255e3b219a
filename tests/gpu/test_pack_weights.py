"""The packing of weights on a GPU, beside float64."""

from __future__ import annotations

import pytest
import torch

from slimkern.ops import pack_weights
from tests.ops.test_pack_weights import CASES, Case, check

pytestmark = pytest.mark.gpu


DTYPES = [torch.float32, torch.bfloat16, torch.float16]
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@pytest.fixture(autouse=True)
def native_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIMKERN_BACKEND", "native")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@every_case
def test_equals_the_definition_in_float64(case: Case, dtype: torch.dtype) -> None:
    check(case, dtype, "cuda")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@every_case
def test_equals_itself_when_run_again(case: Case, dtype: torch.dtype) -> None:
    outcomes = []
    for _ in range(2):
        weights = [case.laid_out(weight.cuda()).requires_grad_() for weight in case.weights(torch.float32)]
        packed = pack_weights(weights, case.parts, dtype)
        torch.autograd.backward(packed, [part.detach().cos() for part in packed])
        outcomes.append([*packed, *(weight.grad for weight in weights)])
    for first, second in zip(*outcomes, strict=True):
        assert torch.equal(first, second)
