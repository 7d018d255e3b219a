"""The compiled core is there wherever it can be compiled: tests that skip without it mustn't hide a broken build."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from slimkern import shared_objects
from slimkern.ops import native, native_library, native_report
from slimkern.ops.native_report import BuildReport, BuiltPart, read_report
from slimkern.shared_objects import BUILD_MODULE
from tests.building_modules import load

PART_COMPILERS = {"cpu": "find_cxx", "cuda": "find_nvcc"}
CXX = load("toolchain").find_cxx()


@pytest.mark.parametrize("part", native_library.LIBRARIES)
def test_what_the_compilers_at_hand_can_build_is_built(part: str) -> None:
    if getattr(load("toolchain"), PART_COMPILERS[part])() is None:
        pytest.skip(f"there is no compiler for {part}")
    told = read_report().left_out.get(part, "")
    if told.startswith("SLIMKERN_BUILD="):
        pytest.skip(f"left out on demand: {told}")
    assert not told
    assert native.why_unavailable(part) is None


def test_what_was_built_is_on_record() -> None:
    report = read_report()
    assert report.problem is None
    assert {*report.parts, *report.left_out}, "no report by the build: install slimkern again, or run make native"
    for part in native_library.LIBRARIES:
        assert (part in report.parts) != (part in report.left_out)


@pytest.fixture
def report_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "build_report.json"
    monkeypatch.setattr(native_report, "FILE", path)
    return path


def test_the_report_of_a_build_without_a_module_is_read(report_file: Path) -> None:
    part = {"compiler": "g++ 1.2", "flags": "-O3", "instruction sets": ["baseline", "avx2"]}
    report_file.write_text(json.dumps({"left out": {"cuda": "no nvcc"}, "cpu": part, "built against torch": "2.11.0"}))
    built = {"cpu": BuiltPart(["baseline", "avx2"], "g++ 1.2", "-O3")}
    assert read_report() == BuildReport(built, {"cuda": "no nvcc"}, "2.11.0")


def of_part(**told: object) -> str:
    return json.dumps({"left out": {}, "cuda": {"compiler": "nvcc", "flags": "-O3", "architectures": ["9.0a"]} | told})


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ('{"left out": {', "Expecting property name"),
        ("[]", "it doesn't say what was left out"),
        ('{"cpu": {}}', "it doesn't say what was left out"),
        ('{"left out": {}, "cpu": {"compiler": "g++"}}', "it doesn't say how its parts were built"),
        ('{"left out": {}, "cpu": "g++"}', "it doesn't say how its parts were built"),
        ("\xff", "'utf-8' codec can't decode"),
        ("[" * 100_000, ""),
        ('{"left out": {"cuda": 5}}', "it doesn't say why a part was left out"),
        ('{"left out": {"cuda": null}}', "it doesn't say why a part was left out"),
        ('{"left out": {}, "built against torch": 2}', "it doesn't say against which torch"),
        *(
            (of_part(architectures=told), "it doesn't say how its parts were built")
            for told in ([9.0], "9.0", {"a": 1})
        ),
        (of_part(compiler=None), "it doesn't say how its parts were built"),
        (of_part(flags=["-O3"]), "it doesn't say how its parts were built"),
    ],
)
def test_a_damaged_report_is_told(written: str, message: str, report_file: Path) -> None:
    report_file.write_text(written, encoding="latin-1")
    problem = read_report().problem
    assert problem is not None and problem.startswith(f"build_report.json is damaged: {message}")


@pytest.mark.usefixtures("report_file")
def test_a_module_of_the_build_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType(BUILD_MODULE)
    monkeypatch.setattr(native_report, "build_module", lambda: module)
    assert read_report().problem == "slimkern._build is stale, it has no report and no plan_tiles"
    module.plan_tiles = module.report = lambda: {}
    assert str(read_report().problem).startswith("the report of slimkern._build is damaged: it doesn't say")

    def refuse() -> None:
        raise ImportError("undefined symbol: nowhere")

    monkeypatch.setattr(native_report, "build_module", refuse)
    assert read_report().problem == "slimkern._build can't be loaded: undefined symbol: nowhere"


@pytest.mark.usefixtures("report_file")
def test_a_module_of_another_copy_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = ModuleType(BUILD_MODULE)
    other.plan_tiles = other.report = lambda: {"left out": {"cpu": "of the other copy"}}
    monkeypatch.setitem(sys.modules, BUILD_MODULE, other)
    monkeypatch.setattr(shared_objects, "PACKAGE", tmp_path)
    assert read_report() == BuildReport()


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the library for the CPU is looked for."""
    path = tmp_path / "libslimkern_cpu.so"
    monkeypatch.setitem(native_library.LIBRARIES, "cpu", path)
    return path


def test_a_missing_library_is_explained(library: Path, report_file: Path) -> None:
    report_file.write_text('{"left out": {"cpu": "no C++ compiler"}}')
    assert native_library.load("cpu") == "no C++ compiler"
    report_file.write_text('{"left out": {}, "cpu": {"compiler": "", "flags": "", "instruction sets": []}}')
    assert native_library.load("cpu") == "libslimkern_cpu.so is gone, though the build made it"
    report_file.write_text("{")
    reason = native_library.load("cpu")
    assert reason is not None and "not compiled" in reason and "build_report.json is damaged" in reason


def test_a_damaged_library_is_told_in_the_linkers_words(library: Path) -> None:
    library.write_bytes(b"\x7fELF")
    assert native_library.load("cpu") == f"libslimkern_cpu.so can't be loaded: {library}: file too short"


@pytest.mark.skipif(CXX is None, reason="needs a C++ compiler")
def test_a_library_that_wants_a_symbol_or_its_end_is_told(library: Path) -> None:
    source = library.with_suffix(".cpp")
    source.write_text("extern int nowhere; int* wanted = &nowhere;")
    subprocess.run([str(CXX), "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    reason = native_library.load("cpu")
    assert reason is not None
    assert reason.startswith("libslimkern_cpu.so can't be loaded: ") and "undefined symbol: nowhere" in reason
    whole = library.read_bytes()
    library.write_bytes(whole[:-1])
    wanted = f"libslimkern_cpu.so is cut short: {len(whole) - 1} bytes, its header wants {len(whole)}"
    assert native_library.load("cpu") == wanted


@pytest.mark.skipif(native.why_unavailable("cpu") is not None, reason=f"{native.why_unavailable('cpu')}")
@pytest.mark.parametrize("name", ["operator_to_come", "pack_weights"])
def test_a_stale_library_is_told(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert native_library.load("cpu") is None
    monkeypatch.setitem(native_library.SCHEMAS, name, "(Tensor other) -> ()")
    assert native_library.load("cpu") == f"libslimkern_cpu.so is stale: as this version calls them, it lacks {name}"
