"""What the build finds, and what it makes of being asked for more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from setuptools import Distribution

from tests.building_modules import load

ROOT = Path(__file__).parents[1]


@pytest.fixture
def toolchain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The module, on a machine without compilers and without variables that steer it."""
    module = load("toolchain")
    for name in ("SLIMKERN_BUILD", "CXX", "CUDA_HOME", "CUDA_PATH", "TORCH_CUDA_ARCH_LIST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(module, "TOOLKIT", str(tmp_path / "nowhere"))
    monkeypatch.setattr(sys, "platform", "linux")
    return module


@pytest.fixture
def native_extensions(toolchain: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The module, on the same machine, compiling into a folder of its own."""
    load("compilation")
    module = load("native_extensions")
    monkeypatch.setattr(module, "OBJECTS", tmp_path / "objects")
    return module


def executable(path: Path, prints: str = "", status: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{prints}'\nexit {status}\n")
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


def command_that_builds(native_extensions: ModuleType, tmp_path: Path) -> Any:
    package = {"packages": ["slimkern"], "package_dir": {"slimkern": str(tmp_path / "source")}}
    command = native_extensions.BuildNative(
        Distribution(package | {"ext_modules": native_extensions.native_extensions()})
    )
    command.build_lib, command.build_temp = str(tmp_path / "lib"), str(tmp_path / "temporary")
    command.ensure_finalized()
    return command


def test_what_can_not_be_compiled_is_left_out_and_said(native_extensions: ModuleType, tmp_path: Path) -> None:
    executable(tmp_path / "g++", "what went wrong", status=1)
    executable(tmp_path / "nvcc", "compute_80")
    command = command_that_builds(native_extensions, tmp_path)
    command.build_extensions()
    failed = "g++ failed with exit code 1"
    expected = {"cpu": failed, "cuda": "it needs the cpu part", "report": failed}
    assert command.left_out == expected
    (file,) = (tmp_path / "lib" / "slimkern").iterdir()
    assert json.loads(file.read_text()) == {"built against torch": None, "left out": expected}


def test_an_earlier_build_does_not_stand_in_for_one_that_failed(native_extensions: ModuleType, tmp_path: Path) -> None:
    executable(tmp_path / "g++", status=1)
    source = tmp_path / "source"
    source.mkdir()
    (source / "libslimkern_cpu.so").touch()
    command = command_that_builds(native_extensions, tmp_path)
    command.build_extensions()
    command.copy_extensions_to_source()
    assert [path.name for path in source.iterdir()] == [native_extensions.REPORT_FILE]


@pytest.mark.parametrize("asked", ["cpu", "cuda"])
def test_what_is_asked_for_must_compile(
    asked: str, native_extensions: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executable(tmp_path / "g++", "what went wrong", status=1)
    executable(tmp_path / "nvcc", "compute_80")
    monkeypatch.setenv("SLIMKERN_BUILD", asked)
    with pytest.raises(
        SystemExit, match=f"SLIMKERN_BUILD={asked}: cpu can't be built: g\\+\\+ failed .*\n.*went wrong"
    ):
        command_that_builds(native_extensions, tmp_path).build_extensions()


@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_torch_is_required_only_where_there_is_a_compiler(
    kind: str, toolchain: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = load("backend")
    name = f"get_requires_for_build_{kind}"
    monkeypatch.setattr(backend.build_meta, name, lambda settings: ["of setuptools"])
    assert getattr(backend, name)() == ["of setuptools"]
    executable(tmp_path / "g++")
    assert getattr(backend, name)() == ["of setuptools", *backend.REQUIREMENTS.read_text().split()]


def test_a_wheel_built_without_a_compiler_works_and_says_what_is_missing(tmp_path: Path) -> None:
    environment = {name: own for name, own in os.environ.items() if name not in ("CXX", "SLIMKERN_BUILD")}
    environment["PATH"] = str(tmp_path)
    folders = [f"--{name}={tmp_path / name}" for name in ("bdist-dir", "dist-dir")]
    command = [
        *(sys.executable, "setup.py", "-q", "egg_info", f"--egg-base={tmp_path}"),
        *("build", f"--build-base={tmp_path / 'build'}", "bdist_wheel", *folders),
    ]
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (wheel,) = (tmp_path / "dist-dir").glob("slimkern-*-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    asks = "from slimkern import info; from slimkern.ops import native; print(native.__file__); print(info.describe())"
    environment["PYTHONPATH"] = str(tmp_path / "installed")
    told = subprocess.run([sys.executable, "-c", asks], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    file, *lines = told.stdout.splitlines()
    assert file.startswith(str(tmp_path))
    assert "  switchable_batch_norm on cpu: torch" in lines
    assert "  cpu: missing, no C++ compiler (looked for CXX, g++, c++, clang++)" in lines
