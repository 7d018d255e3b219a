from __future__ import annotations

from typing import Any

import pytest

from slimkern.info import describe
from slimkern.ops import native


@pytest.fixture
def without_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_UNAVAILABLE", {"cpu": "no C++ compiler", "cuda": "no C++ compiler"})
    monkeypatch.setattr(native, "report", lambda: None)


@pytest.mark.usefixtures("without_libraries")
def test_says_what_is_missing_and_how_to_get_it() -> None:
    told = describe()
    assert "  switchable_batch_norm: torch\n" in told
    assert "    native: no C++ compiler\n" in told
    assert "  cpu: missing, no C++ compiler\n" in told and f"to get what is missing: {native.HOW_TO_BUILD}" in told


def test_says_how_the_native_core_was_built(monkeypatch: pytest.MonkeyPatch) -> None:
    report: dict[str, Any] = {
        "cpu": {"compiler": "g++ 1.2", "flags": "-O3", "instruction sets": ["baseline", "avx2"]},
        "cuda": {"compiler": "release 3.4", "flags": "-DUSE_CUDA", "architectures": ["8.0", "9.0a"]},
        "built against torch": "2.15.0",
    }
    monkeypatch.setattr(native, "_UNAVAILABLE", {"cpu": None, "cuda": None})
    monkeypatch.setattr(native, "report", lambda: report)
    told = describe()
    assert "  cpu: for baseline, avx2; by g++ 1.2 against torch 2.15.0\n    -O3\n" in told
    assert "  cuda: for 8.0, 9.0a; by release 3.4 against torch 2.15.0\n    -DUSE_CUDA\n" in told
    assert "to get what is missing" not in told
