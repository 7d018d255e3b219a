"""A plugin of pytest: tests of the Triton kernels on a GPU, run without one, as far as the driver's door.

    pytest -p tests.without_gpu [--compile 0/2] tests/gpu/test_scroll_conv2d.py tests/gpu/test_exactness.py

Everything happens but the launch itself, so that whatever fails fails for a reason that isn't hardware. As nothing is
computed, nothing is compared. `--compile` compiles a share of what is launched into Triton's cache, here the first of
two; by default nothing is compiled.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from absent_gpu import absent_gpu
from kernel_cache import prepare_launchers


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--compile", metavar="SHARE/SHARES", help="compile a share of what is launched")
    parser.addoption("--launches", type=Path, help="write how often each test launched what, as JSON")


class Capture:
    """Stands for a CUDA graph, and says whether one is being captured."""

    is_on = False

    def replay(self) -> None: ...

    @classmethod
    @contextmanager
    def of(cls, graph: Capture, **options: Any) -> Iterator[None]:
        cls.is_on = True
        try:
            yield
        finally:
            cls.is_on = False


NOTHING_IS_COMPARED = {
    "error": lambda own, true: 0.0,
    "errors": lambda given, truths: 0.0,
    "largest": lambda tensors: 0.0,
    "largest_difference": lambda own, other: 0.0,
    "same_bits": lambda given, others: len(given) == len(others),
}
LESS = {"STEPS": 4, "BATCHES": 1, "IMAGES": 2}
"""Steps that are few and small enough for a CPU, and enough to be recorded and replayed."""


@pytest.fixture(autouse=True)
def driver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    share, shares = map(int, (request.config.getoption("--compile") or "0/0").split("/"))
    module = request.module
    monkeypatch.setattr(module, "DEVICE", "cpu")
    for name, stand_in in (NOTHING_IS_COMPARED | ({} if shares else LESS)).items():
        if hasattr(module, name):
            monkeypatch.setattr(module, name, stand_in)
    if hasattr(module, "Layer"):
        monkeypatch.setattr(module.Layer, "by_torch", lambda *_: [])
    with absent_gpu(lambda key: bool(shares) and crc32(key.encode()) % shares == share) as launches:
        monkeypatch.setattr(torch.cuda, "CUDAGraph", Capture)
        monkeypatch.setattr(torch.cuda, "graph", Capture.of)
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: Capture.is_on)
        yield
    if shares:
        prepare_launchers(launches, Path(os.environ["TRITON_CACHE_DIR"]))
    if (file := request.config.getoption("--launches")) is not None:
        counts: dict[str, int] = {}
        for own in launches:
            counts[own.kernel] = counts.get(own.kernel, 0) + 1
        with file.open("a", encoding="utf-8") as lines:
            print(json.dumps({"test": request.node.nodeid, "launches": counts}), file=lines)
