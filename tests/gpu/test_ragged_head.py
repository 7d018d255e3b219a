"""The heads on a GPU, beside plain torch in float64 on the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from slimkern.ops import ragged_head
from tests.ops.test_ragged_head import CASES, TOLERANCE, Case, leaves
from tests.ops.truth import assert_each_near

pytestmark = pytest.mark.gpu


def moved(arguments: dict[str, Any], device: str, dtype: torch.dtype | None = None) -> dict[str, Any]:
    def move(tensor: torch.Tensor) -> torch.Tensor:
        own = tensor.dtype if dtype is None or not tensor.is_floating_point() else dtype
        return tensor.detach().to(device, own).requires_grad_(tensor.is_floating_point())

    result = {name: move(given) if isinstance(given, torch.Tensor) else given for name, given in arguments.items()}
    return result | {"slabs": [move(slab) for slab in arguments["slabs"]]}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_equals_float64(case: Case, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = []
    drawn = case.tensors(dtype)
    for device, backend, own in (("cpu", "torch", torch.float64), ("cuda", "native", None), ("cuda", "native", None)):
        monkeypatch.setenv("SLIMKERN_BACKEND", backend)
        arguments = moved(drawn, device, own)
        losses, logits = ragged_head(**arguments)
        (losses.sum() + sum(own.sum() for own in logits)).backward()
        results = {"losses": losses, **{f"logits {place}": given for place, given in enumerate(logits)}}
        results |= {f"gradient of {name}": leaf.grad for name, leaf in leaves(arguments).items()}
        outcomes.append({name: result.detach().cpu() for name, result in results.items()})
    for name, true in outcomes[0].items():
        assert torch.equal(outcomes[1][name], outcomes[2][name]), name
        assert_each_near(name, outcomes[1][name], true.double(), TOLERANCE[dtype])


def test_a_label_outside_the_range_makes_the_loss_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIMKERN_BACKEND", "native")
    labels = torch.tensor([0, 2], device="cuda")
    losses, _ = ragged_head([torch.ones(2, 4).cuda()], torch.ones(3, 4).cuda(), None, labels, first=0, last=2)
    assert bool(losses.isnan().all())
