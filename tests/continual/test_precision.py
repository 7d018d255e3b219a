from __future__ import annotations

import pytest
import torch

from slimkern.continual.precision import PrecisionName, autocast, tensor_float_32

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("fp32", torch.float32), ("tf32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_products_are_computed_in_the_precision(precision: PrecisionName, dtype: torch.dtype) -> None:
    with autocast(precision, CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", False), ("tf32", True), ("bf16", True)])
def test_switches_of_tf32_are_set_and_put_back(precision: PrecisionName, allowed: bool) -> None:
    places = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [place.allow_tf32 for place in places]
    with tensor_float_32(precision):
        assert [place.allow_tf32 for place in places] == [allowed, allowed]
    assert [place.allow_tf32 for place in places] == before
