from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch

import slimkern
from slimkern import info
from slimkern.ops import backends, native
from slimkern.ops.native_report import BuildReport, BuiltPart


def test_it_names_the_versions_and_devices() -> None:
    first, second, *_ = info.describe().splitlines()
    assert first.startswith(f"slimkern {slimkern.__version__}, torch {torch.__version__}, triton ")
    assert first.endswith(f"Python {platform.python_version()}")
    gpu = f"cuda:0 ({torch.cuda.get_device_name(0)})" if torch.cuda.is_available() else "no CUDA GPU"
    assert second.startswith("devices: cpu (") and gpu in second


def test_every_operator_has_its_backend_and_the_reasons_against_others() -> None:
    told = info.describe()
    for operator in backends.OPERATORS:
        assert f"\n  {operator} on cpu: {backends.choose(operator, 'cpu')}\n" in told
        reasons = [backends.why_not(operator, backend) for backend in backends.BACKENDS]
        assert sum(reason is None for reason in reasons) >= 1
        assert all(reason in told for reason in reasons if reason)


@pytest.mark.parametrize("available", [False, True])
def test_a_gpu_is_asked_about_where_there_is_one(available: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda place: "a GPU")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: int(available))
    monkeypatch.setattr(backends, "PROVEN", {("native", "cpu")})
    monkeypatch.setattr(native, "_UNAVAILABLE", {"cpu": None, "cuda": None})
    told = info.describe()
    assert ("  switchable_batch_norm on cuda: torch\n" in told) is available
    assert ("native: not yet proven on such hardware; SLIMKERN_BACKEND=native asks for it" in told) is available
    assert "  switchable_batch_norm on cpu: native\n" in told


@pytest.mark.parametrize(
    ("forced", "message"),
    [("cuda", "SLIMKERN_BACKEND=cuda is unknown"), ("triton", "has no such backend, only")],
)
def test_a_backend_that_can_not_be_forced_is_explained(
    monkeypatch: pytest.MonkeyPatch, forced: str, message: str
) -> None:
    monkeypatch.setenv("SLIMKERN_BACKEND", forced)
    assert message in info.describe()


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(package: str) -> str:
        if package in ("tyro", "rich", "triton"):
            raise PackageNotFoundError(package)
        return "1.0"

    monkeypatch.setattr(info, "version", version)
    text = info.describe()
    assert "triton missing" in text
    assert "  train: missing rich, tyro; pip install 'slimkern[train]'" in text
    assert "  plot: installed" in text and "  tensorboard: installed" in text


@pytest.fixture
def without_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_UNAVAILABLE", {"cpu": "no C++ compiler", "cuda": "no C++ compiler"})
    monkeypatch.setattr(info, "read_report", BuildReport)


@pytest.mark.usefixtures("without_libraries")
def test_says_what_is_missing_and_how_to_get_it() -> None:
    told = info.describe()
    assert "  switchable_batch_norm on cpu: torch\n" in told
    assert "    native: no C++ compiler\n" in told
    assert "  cpu: missing, no C++ compiler\n" in told and f"to get what is missing: {native.HOW_TO_BUILD}" in told


def test_says_how_the_native_core_was_built(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {
        "cpu": BuiltPart(["baseline", "avx2"], "g++ 1.2", "-O3"),
        "cuda": BuiltPart(["8.0", "9.0a"], "release 3.4", "-DUSE_CUDA"),
    }
    monkeypatch.setattr(native, "_UNAVAILABLE", {"cpu": None, "cuda": None})
    monkeypatch.setattr(info, "read_report", lambda: BuildReport(parts, torch="2.15.0"))
    told = info.describe()
    assert "  cpu: for baseline, avx2; by g++ 1.2 against torch 2.15.0\n    -O3\n" in told
    assert "  cuda: for 8.0, 9.0a; by release 3.4 against torch 2.15.0\n    -DUSE_CUDA\n" in told
    assert "to get what is missing" not in told


def test_damaged_files_of_the_native_core_are_told(tmp_path: Path) -> None:
    package = tmp_path / "slimkern"
    shutil.copytree(Path(slimkern.__file__).parent, package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    (package / "build_report.json").write_text('{"left out": {')
    (package / "libslimkern_cpu.so").write_bytes(b"\x7fELF")
    command = [sys.executable, "-m", "slimkern", "info"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    told = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert told.returncode == 0 and told.stderr == ""
    unloadable = f"libslimkern_cpu.so can't be loaded: {package / 'libslimkern_cpu.so'}: file too short"
    assert f"    native: {unloadable}\n" in told.stdout
    assert "\nnative core\n  build_report.json is damaged: Expecting property name" in told.stdout
    assert f"  cpu: missing, {unloadable}\n" in told.stdout
