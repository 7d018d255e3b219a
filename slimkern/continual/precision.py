"""What a training step computes in; weights, their gradients, penalties and statistics are float32 in all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch

PrecisionName = Literal["fp32", "tf32", "bf16", "fp16"]
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@contextmanager
def tensor_float_32(precision: PrecisionName) -> Iterator[None]:
    """Set PyTorch's switches of TF32 meanwhile: off for `fp32`, on for all others."""
    places: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [place.allow_tf32 for place in places]
    try:
        for place in places:
            place.allow_tf32 = precision != "fp32"
        yield
    finally:
        for place, own in zip(places, before, strict=True):
            place.allow_tf32 = own


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """A context in which products are computed in the dtype of their factors, within an autocast too."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def autocast(precision: PrecisionName, device: torch.device) -> torch.autocast:
    """The context of a forward pass: PyTorch's autocast for `bf16` and `fp16`, else one that changes nothing."""
    dtype = _AUTOCAST.get(precision)
    return torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None)
