from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

POISONED = [Path(__file__).parent / part for part in ("gpu", "kernels", "nn", "ops")]
WITHOUT_GPU = "tests.without_gpu"
"""A plugin that runs tests of kernels as far as a driver that isn't there."""

# cuBLAS, too, has to be told to be deterministic, which poisoning asks for, before it is used for the first time.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

settings.register_profile("house", deadline=None, derandomize="CI" in os.environ, max_examples=30, print_blob=True)
settings.load_profile("house")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available() and not config.pluginmanager.has_plugin(WITHOUT_GPU):
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))


@pytest.fixture(autouse=True)
def poisoned_allocations(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fill fresh memory with NaN, so that reading what was never written shows."""
    if not any(request.path.is_relative_to(folder) for folder in POISONED):
        yield
        return
    # PyTorch fills memory in this mode only; it is the filling that is wanted.
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.empty(1).isnan()
    yield
    torch.use_deterministic_algorithms(False)
