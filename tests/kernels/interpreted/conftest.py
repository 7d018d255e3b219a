"""Kernels in Triton's interpreter, which must be switched on before Triton is imported.

So these tests need a process of their own: `tests/kernels/test_interpreted.py` starts it, as does
`TRITON_INTERPRET=1 pytest tests/kernels/interpreted`.
"""

from __future__ import annotations

import os

import numpy as np
import pytest

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
collect_ignore_glob = [] if INTERPRETED else ["test_*.py"]


@pytest.fixture(autouse=True, scope="session")
def interpreter_that_works() -> None:
    import triton

    if triton.__version__.startswith("3.6.") and tuple(map(int, np.__version__.split(".")[:2])) >= (2, 4):
        pytest.skip("the interpreter of Triton 3.6 can't read scalars with NumPy 2.4 and newer")
