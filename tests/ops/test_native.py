"""The compiled core is there wherever it can be compiled: tests that skip without it mustn't hide a broken build."""

from __future__ import annotations

from pathlib import Path

import pytest

from slimkern.ops import native
from tests.building_modules import load

PART_COMPILERS = {"cpu": "find_cxx", "cuda": "find_nvcc"}


@pytest.mark.parametrize("part", native.LIBRARIES)
def test_what_the_compilers_at_hand_can_build_is_built(part: str) -> None:
    if getattr(load("toolchain"), PART_COMPILERS[part])() is None:
        pytest.skip(f"there is no compiler for {part}")
    told = native.left_out().get(part, "")
    if told.startswith("SLIMKERN_BUILD="):
        pytest.skip(f"left out on demand: {told}")
    assert not told
    assert native.why_unavailable(part) is None


def test_what_was_built_is_on_record() -> None:
    report = native.report()
    assert report is not None, "no report by the build: install slimkern again, or run make native"
    for part in native.LIBRARIES:
        assert (part in report) != (part in report["left out"])


def test_the_report_of_a_build_without_a_module_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "build_report.json"
    path.write_text('{"left out": {"cpu": "no C++ compiler"}}')
    monkeypatch.setattr(native, "REPORT", path)
    assert native.left_out() == {"cpu": "no C++ compiler"}
