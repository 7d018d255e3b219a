from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest
import torch

STICKY = "CUDA error"
"""An error after which nothing works on the GPU in the same process, such as an illegal memory access."""


@pytest.fixture(autouse=True)
def faults_end_the_process(request: pytest.FixtureRequest) -> Iterator[None]:
    """End the process after a test whose kernels broke CUDA's context, or each test after it would fail as well.

    pytest-xdist then says which test a process died in, and goes on with another process.
    """
    yield
    if not torch.cuda.is_available():
        return
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        if STICKY not in str(error) or "PYTEST_XDIST_WORKER" not in os.environ:
            raise
        print(f"{request.node.nodeid}: {error}", file=sys.stderr, flush=True)
        os._exit(70)
