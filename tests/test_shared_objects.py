from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from slimkern import shared_objects
from slimkern.shared_objects import build_module, why_cut_short
from tests.building_modules import load

CXX = load("toolchain").find_cxx()
FILES = Path(shared_objects.__file__).parent
IMPORTS = """
from slimkern import info
from slimkern.kernels import tile_plan
assert tile_plan._compiled is None
print(info.describe())
"""

needs_cxx = pytest.mark.skipif(CXX is None, reason="needs a C++ compiler")


@pytest.fixture
def shared_object(tmp_path: Path) -> Path:
    """What a compiler makes, larger than a page of memory."""
    source, made = tmp_path / "source.cpp", tmp_path / f"_build{EXTENSION_SUFFIXES[0]}"
    source.write_text("char filled[100000] = {1};")
    subprocess.run([str(CXX), "-shared", "-fPIC", str(source), "-o", str(made)], check=True)
    return made


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


@needs_cxx
def test_what_a_compiler_made_is_whole_until_it_is_cut(shared_object: Path) -> None:
    assert why_cut_short(shared_object) is None
    whole = shared_object.stat().st_size
    for size in (whole - 1, whole // 2, 64):
        cut(shared_object, size)
        assert (
            why_cut_short(shared_object) == f"{shared_object.name} is cut short: {size} bytes, its header wants {whole}"
        )
    cut(shared_object, 63)
    assert why_cut_short(shared_object) is None  # the loader says so itself


def test_of_other_files_the_loader_speaks(tmp_path: Path) -> None:
    path = tmp_path / "library.so"
    for content in (b"", b"MZ" + b"\xff" * 100, b"\x7fELF\x01\x01" + b"\xff" * 100):
        path.write_bytes(content)
        assert why_cut_short(path) is None


@needs_cxx
def test_a_module_that_was_cut_is_not_loaded(shared_object: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_objects, "PACKAGE", shared_object.parent)
    cut(shared_object, shared_object.stat().st_size // 2)
    with pytest.raises(ImportError, match=r"_build.* is cut short: \d+ bytes, its header wants"):
        build_module()


def test_a_package_without_a_module_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_objects, "PACKAGE", tmp_path)
    assert build_module() is None


@needs_cxx
def test_a_copy_with_cut_files_is_imported_and_says_so(shared_object: Path, tmp_path: Path) -> None:
    package = tmp_path / "slimkern"
    shutil.copytree(FILES, package, ignore=shutil.ignore_patterns("*.so", "build_report.json", "__pycache__"))
    cut(shared_object, shared_object.stat().st_size // 2)
    names = (shared_object.name, "libslimkern_cpu.so")
    for name in names:
        shutil.copy(shared_object, package / name)
    pytest.importorskip("triton")
    command = [sys.executable, "-c", IMPORTS]
    told = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    assert all(f"{name} is cut short: " in told.stdout for name in names)
