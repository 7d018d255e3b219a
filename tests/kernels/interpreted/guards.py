"""Memory around what kernels read and write: NaN where nothing may be read, marks where nothing may be written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

GUARD = 64
"""Elements on either side of a tensor."""

MARK = 7
aten = torch.ops.aten
ALLOCATIONS = {
    packet.default if "default" in packet.overloads() else packet.memory_format
    for packet in (aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided)
}


def surrounded(tensor: Tensor) -> Tensor:
    """The same tensor at the same strides, with NaN on both sides and in the gaps."""
    buffer = _buffer(tensor)
    buffer[:GUARD] = buffer[-GUARD:] = torch.nan
    return _inside(buffer, tensor).copy_(tensor)


class Guarded(TorchDispatchMode):
    """While it is entered, new tensors of floats hold NaN and lie between marks; all must be written, no mark."""

    def __init__(self) -> None:
        super().__init__()
        self._buffers: list[Tensor] = []

    def __torch_dispatch__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if function not in ALLOCATIONS or not result.is_floating_point() or result.numel() == 0:
            return result
        buffer = _buffer(result)
        buffer[:GUARD] = buffer[-GUARD:] = MARK
        self._buffers.append(buffer)
        return _inside(buffer, result)

    def __exit__(self, kind: type[BaseException] | None, *others: Any) -> None:
        super().__exit__(kind, *others)
        if kind is not None:
            return
        assert self._buffers, "nothing was allocated"
        for buffer in self._buffers:
            assert (buffer[:GUARD] == MARK).all() and (buffer[-GUARD:] == MARK).all(), "written around a tensor"
            assert not buffer.isnan().any(), "places of a tensor were never written"


def _buffer(like: Tensor) -> Tensor:
    span = 1 + sum((size - 1) * stride for size, stride in zip(like.shape, like.stride(), strict=True))
    return torch.full((span + 2 * GUARD,), torch.nan, dtype=like.dtype)


def _inside(buffer: Tensor, like: Tensor) -> Tensor:
    return buffer.as_strided(like.shape, like.stride(), GUARD)
