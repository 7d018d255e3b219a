"""The packing of weights on a GPU, beside plain torch on the CPU."""

from __future__ import annotations

import pytest
import torch

from slimkern.ops import native, pack_weights
from tests.ops.test_pack_weights import CASES, TOLERANCE, Case
from tests.ops.truth import assert_each_near

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(native.why_unavailable("cuda") is not None, reason=str(native.why_unavailable("cuda"))),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_equals_plain_torch(case: Case, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = []
    for device, backend in (("cpu", "torch"), ("cuda", "native"), ("cuda", "native")):
        monkeypatch.setenv("SLIMKERN_BACKEND", backend)
        weights = [case.laid_out(weight.to(device)).requires_grad_() for weight in case.weights(torch.float32)]
        packed = pack_weights(weights, case.parts, dtype)
        torch.autograd.backward(packed, [part.detach().cpu().cos().to(device) for part in packed])
        outcomes.append(([part.detach().cpu() for part in packed], [weight.grad for weight in weights]))
    plain, given, again = outcomes
    for first, second, true in zip(given[0], again[0], plain[0], strict=True):
        assert torch.equal(first, true) and torch.equal(first, second)
    for first, second, true in zip(given[1], again[1], plain[1], strict=True):
        assert torch.equal(first, second)
        assert_each_near("gradient", first.cpu(), true.double(), TOLERANCE[dtype])
