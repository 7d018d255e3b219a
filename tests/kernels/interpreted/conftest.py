"""Kernels in Triton's interpreter, which must be switched on before Triton is imported.

So these tests need a process of their own: `tests/kernels/test_interpreted.py` starts it, as does
`TRITON_INTERPRET=1 pytest tests/kernels/interpreted`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
collect_ignore_glob = [] if INTERPRETED else ["test_*.py"]

GUARD = 64
"""Elements on either side of a tensor that no kernel may touch."""


@pytest.fixture(autouse=True, scope="session")
def interpreter_that_works() -> None:
    import triton

    if triton.__version__.startswith("3.6.") and tuple(map(int, np.__version__.split(".")[:2])) >= (2, 4):
        pytest.skip("the interpreter of Triton 3.6 can't read scalars with NumPy 2.4 and newer")


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Slabs that kernels allocate are filled with NaN, and what lies around them must stay as it was."""
    from slimkern.kernels import launch, scroll_conv2d, scroll_conv2d_stem

    buffers: list[tuple[Tensor, Tensor]] = []

    def surrounded(allocate: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def allocate_surrounded(*arguments: object) -> Tensor:
            slab = allocate(*arguments)
            buffer = torch.full((slab.numel() + 2 * GUARD,), torch.nan, dtype=slab.dtype)
            buffer[:GUARD] = buffer[-GUARD:] = 7
            buffers.append((buffer, slab))
            return buffer.as_strided(slab.shape, slab.stride(), GUARD)

        return allocate_surrounded

    for module in (scroll_conv2d, scroll_conv2d_stem):
        monkeypatch.setattr(module, "empty_slab", surrounded(launch.empty_slab))
    yield
    assert buffers, "nothing was allocated"
    for buffer, slab in buffers:
        assert (buffer[:GUARD] == 7).all() and (buffer[-GUARD:] == 7).all(), f"written around {tuple(slab.shape)}"
        assert not buffer.isnan().any(), f"places of {tuple(slab.shape)} were never written"
