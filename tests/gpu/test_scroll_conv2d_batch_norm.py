"""A convolution and the native batch norm that takes all its slabs at once, on a GPU, beside float64.

Plain torch convolves, or Triton, whose moments the batch norm takes.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.ops.test_scroll_conv2d_batch_norm import CASES, Case, leaves
from tests.ops.truth import assert_near

pytestmark = pytest.mark.gpu

CALLS = [pytest.param(case, "native,torch", id=name) for name, case in CASES.items()]
CALLS += [
    pytest.param(Case(8, 8, scroll=3, residual=True, relu=True), "triton,native", id="triton_residual_relu"),
    pytest.param(Case(16, 32, bias=True, stride=2, scroll=2), "triton,native", id="triton_bias_stride"),
    pytest.param(Case(8, 8, running=True, scroll=1), "triton,native", id="triton_running_statistics"),
]


def outcome(case: Case, dtype: torch.dtype, device: str) -> dict[str, Tensor]:
    drawn = {
        name: [own.to(device) for own in given]
        if isinstance(given, list)
        else None
        if given is None
        else given.to(device)
        for name, given in case.tensors(torch.float64).items()
    }
    given = leaves(drawn, dtype)
    results, _, mean, variance = case.run(given)
    torch.stack([result.cos().sum() for result in results]).sum().backward()
    found = {f"result {place}": result.detach() for place, result in enumerate(results)}
    found |= {f"gradient of slab {place}": slab.grad for place, slab in enumerate(given["slabs"])}
    found |= {
        f"gradient of {name}": given[name].grad for name in ("weight", "scale", "shift") if given[name] is not None
    }
    return {name: own.cpu() for name, own in (found | {"mean": mean, "variance": variance}).items()}


@pytest.mark.parametrize(("case", "backends"), CALLS)
def test_equals_float64_in_float32(case: Case, backends: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setenv("SLIMKERN_BACKEND", "torch")
    truth = outcome(case, torch.float64, "cpu")
    monkeypatch.setenv("SLIMKERN_BACKEND", backends)
    given, again = outcome(case, torch.float32, "cuda"), outcome(case, torch.float32, "cuda")
    for name, true in truth.items():
        assert_near(name, given[name], true, 1e-4)
        assert_near(name, again[name], true, 1e-4)
