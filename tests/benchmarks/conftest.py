from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
BACKEND = "SLIMKERN_BACKEND"


@pytest.fixture(autouse=True)
def backend_is_put_back() -> Iterator[None]:
    """Benchmarks choose backends by the environment, in which other tests run after them."""
    before = os.environ.get(BACKEND)
    yield
    if before is None:
        os.environ.pop(BACKEND, None)
    else:
        os.environ[BACKEND] = before
