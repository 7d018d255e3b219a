"""Triton kernels, one file per operator. The package imports without a GPU and without Triton; its modules need Triton.

A launch covers all slabs of a batch. What it does for each is said by rows (`slab_table`), so that nested widths of one
weight, private weights and frozen slabs are data, not other kernels.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec


@cache
def why_unavailable() -> str | None:
    """Why no Triton kernel can be run here at all; None if Triton is installed."""
    return None if find_spec("triton") else "triton isn't installed; pip install triton"
