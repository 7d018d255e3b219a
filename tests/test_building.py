"""What the build finds, and what it makes of being asked for more."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

BUILDING = Path(__file__).parents[1] / "building"


@pytest.fixture
def toolchain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The module, on a machine without compilers and without variables that steer it."""
    spec = importlib.util.spec_from_file_location("toolchain", BUILDING / "toolchain.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "toolchain", module)
    spec.loader.exec_module(module)
    for name in ("SLIMKERN_BUILD", "CXX", "CUDA_HOME", "CUDA_PATH", "TORCH_CUDA_ARCH_LIST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(module, "TOOLKIT", str(tmp_path / "nowhere"))
    monkeypatch.setattr(sys, "platform", "linux")
    return module


def executable(path: Path, prints: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{prints}'\n")
    path.chmod(0o755)
    return path


def test_without_compilers_everything_is_left_out(toolchain: ModuleType) -> None:
    found = toolchain.Toolchain.find()
    assert (found.cxx, found.nvcc) == (None, None)
    assert found.left_out["cpu"].startswith("no C++ compiler")


def test_compilers_are_found(toolchain: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cxx = executable(tmp_path / "g++")
    assert toolchain.Toolchain.find() == toolchain.Toolchain(
        str(cxx), None, {"cuda": "no nvcc (looked in CUDA_HOME, PATH, /usr/local/cuda)"}
    )
    nvcc = executable(tmp_path / "toolkit" / "bin" / "nvcc")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "toolkit"))
    assert toolchain.Toolchain.find() == toolchain.Toolchain(str(cxx), str(nvcc), {})
    monkeypatch.setenv("SLIMKERN_BUILD", "cpu")
    assert toolchain.Toolchain.find().left_out == {"cuda": "SLIMKERN_BUILD=cpu"}
    monkeypatch.setenv("SLIMKERN_BUILD", "none")
    assert toolchain.Toolchain.find().cxx is None


@pytest.mark.parametrize(
    ("asked", "message"),
    [("cpu", "no C++ compiler"), ("cuda", "no nvcc"), ("gpu", "must be one of auto, cpu, cuda, none")],
)
def test_what_is_asked_for_must_be_there(
    asked: str, message: str, toolchain: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if asked == "cuda":
        executable(tmp_path / "g++")
    monkeypatch.setenv("SLIMKERN_BUILD", asked)
    with pytest.raises(SystemExit) as stop:
        toolchain.Toolchain.find()
    assert str(stop.value).startswith(f"SLIMKERN_BUILD={asked}") and message in str(stop.value)


def test_architectures(toolchain: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvcc = str(executable(tmp_path / "nvcc", "compute_80 compute_90"))
    assert toolchain.architectures(nvcc) == ["8.0", "9.0a+PTX"]
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.6; 10.0+PTX")
    assert toolchain.architectures(nvcc) == ["8.6", "10.0+PTX"]
    assert toolchain.code_options(["8.6", "10.0+PTX"]) == [
        f"-gencode=arch=compute_{virtual},code={real}"
        for virtual, real in (("86", "sm_86"), ("100", "sm_100"), ("100", "compute_100"))
    ]
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "Hopper")
    with pytest.raises(toolchain.BuildError, match="holds 'Hopper'; it takes numbers"):
        toolchain.architectures(nvcc)
