"""What the build finds, and what it makes of being asked for more."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from setuptools import Distribution

from tests.building_modules import load

ROOT = Path(__file__).parents[1]
VARIABLES = ("SLIMKERN_BUILD", "CXX", "CUDA_HOME", "CUDA_PATH", "TORCH_CUDA_ARCH_LIST", "MAX_JOBS")


@pytest.fixture
def toolchain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The module, on a machine without compilers and without variables that steer it."""
    module = load("toolchain")
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(module, "TOOLKIT", str(tmp_path / "nowhere"))
    monkeypatch.setattr(sys, "platform", "linux")
    return module


@pytest.fixture
def native_extensions(toolchain: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The module, on the same machine, compiling into a folder of its own."""
    load("ninja_build")
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
        str(cxx), None, {"cuda": f"no nvcc (looked in PATH, {toolchain.TOOLKIT}; CUDA_HOME isn't set)"}
    )
    nvcc = executable(tmp_path / "toolkit" / "bin" / "nvcc")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "toolkit"))
    assert toolchain.Toolchain.find() == toolchain.Toolchain(str(cxx), str(nvcc), {})
    monkeypatch.setenv("SLIMKERN_BUILD", "cpu")
    assert toolchain.Toolchain.find().left_out == {"cuda": "SLIMKERN_BUILD=cpu"}
    monkeypatch.setenv("SLIMKERN_BUILD", "none")
    assert toolchain.Toolchain.find().cxx is None


@pytest.mark.parametrize("asked", ["auto", "cpu", "cuda"])
def test_no_other_compiler_stands_in_for_the_one_that_is_named(
    asked: str, toolchain: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("g++", "c++", "nvcc"):
        executable(tmp_path / name)
    monkeypatch.setenv("SLIMKERN_BUILD", asked)
    monkeypatch.setenv("CXX", "g++-99")
    with pytest.raises(SystemExit, match=r"CXX=g\+\+-99 can't be run"):
        toolchain.Toolchain.find()


@pytest.mark.parametrize("variable", ["CUDA_HOME", "CUDA_PATH"])
def test_no_other_toolkit_stands_in_for_the_one_that_is_named(
    variable: str, toolchain: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("g++", "nvcc"):
        executable(tmp_path / name)
    monkeypatch.setenv(variable, "/nowhere")
    assert toolchain.Toolchain.find().left_out == {"cuda": f"no nvcc (looked in {variable}=/nowhere)"}
    monkeypatch.setenv("SLIMKERN_BUILD", "cuda")
    with pytest.raises(SystemExit, match=f"SLIMKERN_BUILD=cuda: no nvcc .looked in {variable}=/nowhere"):
        toolchain.Toolchain.find()


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
    executable(tmp_path / "g++", "x.h:3:5: error: what went wrong", status=1)
    executable(tmp_path / "nvcc", "compute_80")
    command = command_that_builds(native_extensions, tmp_path)
    command.build_extensions()
    why = command.left_out
    assert list(why) == ["cpu", "cuda", "report"] and why["cuda"] == "it needs the cpu part"
    assert re.fullmatch(r"cpu_\w+\.cpp\.o: x\.h:3:5: error: what went wrong", why["cpu"])
    assert why["report"] == "csrc_python_module.cpp.o: x.h:3:5: error: what went wrong"
    (file,) = (tmp_path / "lib" / "slimkern").iterdir()
    assert json.loads(file.read_text()) == {"built against torch": None, "left out": why}


def test_an_earlier_build_does_not_stand_in_for_one_that_failed(native_extensions: ModuleType, tmp_path: Path) -> None:
    executable(tmp_path / "g++", status=1)
    source = tmp_path / "source"
    source.mkdir()
    (source / "libslimkern_cpu.so").touch()
    command = command_that_builds(native_extensions, tmp_path)
    command.build_extensions()
    command.copy_extensions_to_source()
    assert [path.name for path in source.iterdir()] == [native_extensions.REPORT_FILE]


LIBRARY_FILES = ["libslimkern_cpu.so", "libslimkern_cuda.so"]
MODULE_FILE = f"_build{sysconfig.get_config_var('EXT_SUFFIX')}"


def leave_an_earlier_build(*folders: Path) -> None:
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (*LIBRARY_FILES, MODULE_FILE, "build_report.json"):
            (folder / name).write_text("of an earlier build")


@pytest.fixture
def compiled(native_extensions: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """What each part comes to, on a machine with a C++ compiler."""
    made = executable(tmp_path / "made", "of this build")
    executable(tmp_path / "g++")
    for part in ("cpu", "cuda", "report"):
        monkeypatch.setattr(native_extensions.BuildNative, f"_build_{part}", lambda *_: made)
    return made


def test_a_part_that_is_left_out_leaves_no_library(
    compiled: Path, native_extensions: ModuleType, tmp_path: Path
) -> None:
    folders = (tmp_path / "source", tmp_path / "lib" / "slimkern")
    leave_an_earlier_build(*folders)
    command = command_that_builds(native_extensions, tmp_path)
    command.inplace = True
    command.run()
    for folder in folders:
        assert {path.name for path in folder.iterdir()} == {LIBRARY_FILES[0], MODULE_FILE}
        assert all(path.read_bytes() == compiled.read_bytes() and os.access(path, os.X_OK) for path in folder.iterdir())


@pytest.mark.parametrize("place", ["lib", "source"])
@pytest.mark.usefixtures("compiled")
def test_a_copy_that_is_cut_short_is_no_library(
    place: str, native_extensions: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copyfile

    def cut_short(source: Path, target: Path, **options: bool) -> None:
        copy(source, target, **options)
        if Path(target).is_relative_to(tmp_path / place):
            Path(target).write_text("")
            raise OSError("no space left")

    monkeypatch.setattr(shutil, "copyfile", cut_short)
    (tmp_path / "source").mkdir()
    command = command_that_builds(native_extensions, tmp_path)
    command.inplace = True
    with pytest.raises(OSError, match="no space left"):
        command.run()
    folder = tmp_path / "source" if place == "source" else tmp_path / "lib" / "slimkern"
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("words", ["build_ext --inplace", "editable_wheel"])
@pytest.mark.parametrize("asked", ["none", "auto"])
def test_a_build_of_nothing_leaves_nothing_but_word_of_it(asked: str, words: str, tmp_path: Path) -> None:
    package = tmp_path / "sources" / "slimkern"
    done = run_setup(tmp_path, {"SLIMKERN_BUILD": asked}, words, leave_an_earlier_build)
    assert done.returncode == 0, done.stderr
    assert not [path.name for path in package.iterdir() if ".so" in path.name]
    told = "SLIMKERN_BUILD=none" if asked == "none" else "no C++ compiler (looked for g++, c++, clang++)"
    assert json.loads((package / "build_report.json").read_text()) == {"left out": {"cpu": told, "cuda": told}}


@pytest.mark.parametrize("asked", ["cpu", "cuda"])
def test_what_is_asked_for_must_compile(
    asked: str, native_extensions: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executable(tmp_path / "g++", "what went wrong", status=1)
    executable(tmp_path / "nvcc", "compute_80")
    monkeypatch.setenv("SLIMKERN_BUILD", asked)
    with pytest.raises(
        SystemExit, match=rf"SLIMKERN_BUILD={asked}: cpu can't be built: cpu_\w+\.cpp\.o: what went wrong"
    ):
        command_that_builds(native_extensions, tmp_path).build_extensions()


@pytest.mark.parametrize("asked", ["cpu", "cuda"])
def test_with_what_is_asked_for_comes_the_module(
    asked: str, native_extensions: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("g++", "nvcc"):
        executable(tmp_path / name)
    for part in ("cpu", "cuda"):
        monkeypatch.setattr(native_extensions.BuildNative, f"_build_{part}", lambda *_: executable(tmp_path / "made"))
    monkeypatch.setitem(sys.modules, "pybind11", None)
    monkeypatch.setenv("SLIMKERN_BUILD", asked)
    with pytest.raises(SystemExit, match=f"SLIMKERN_BUILD={asked}: report can't be built: pybind11 is not"):
        command_that_builds(native_extensions, tmp_path).build_extensions()


each_way_to_build = pytest.mark.parametrize("words", ["build_ext --inplace", "editable_wheel", "bdist_wheel"])


def run_setup(
    folder: Path, variables: dict[str, str], words: str, prepare: Callable[[Path], None] = lambda package: None
) -> subprocess.CompletedProcess[str]:
    """Run setup.py on a copy of the sources, its package prepared, with no other compilers than this folder's."""
    sources = folder / "sources"
    sources.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    for name in ("building", "csrc", "slimkern"):
        shutil.copytree(ROOT / name, sources / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    prepare(sources / "slimkern")
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    environment |= {"PATH": str(folder), "CUDA_HOME": str(folder / "nowhere")} | variables
    command = [sys.executable, "setup.py", "-q", *words.split()]
    return subprocess.run(command, cwd=sources, env=environment, capture_output=True, text=True)


@each_way_to_build
def test_the_exit_status_tells_that_something_asked_for_is_missing(words: str, tmp_path: Path) -> None:
    executable(tmp_path / "g++", "x.h:3:5: error: what went wrong", status=1)
    done = run_setup(tmp_path, {"SLIMKERN_BUILD": "cpu"}, words)
    assert done.returncode != 0
    assert "SLIMKERN_BUILD=cpu: cpu can't be built: cpu_" in done.stderr and "error: what went wrong" in done.stderr


@each_way_to_build
def test_the_last_lines_of_a_build_say_what_is_missing(words: str, tmp_path: Path) -> None:
    executable(tmp_path / "g++", "x.h:3:5: error: what went wrong", status=1)
    done = run_setup(tmp_path, {}, words)
    assert done.returncode == 0, done.stderr
    cuda, cpu, report = done.stdout.splitlines()[-3:]
    assert (
        cuda
        == f"slimkern works without its native core's cuda part: no nvcc (looked in CUDA_HOME={tmp_path / 'nowhere'})"
    )
    assert cpu.startswith("slimkern works without its native core's cpu part: cpu_")
    assert report.startswith("slimkern works without its native core's report part: csrc_")
    assert cpu.endswith("error: what went wrong") and report.endswith("error: what went wrong")


def test_a_build_without_a_compiler_says_so_too(tmp_path: Path) -> None:
    done = run_setup(tmp_path, {}, "bdist_wheel")
    assert done.returncode == 0, done.stderr
    cpu, cuda = done.stdout.splitlines()[-2:]
    assert cpu == "slimkern works without its native core's cpu part: no C++ compiler (looked for g++, c++, clang++)"
    assert cuda == cpu.replace("cpu part", "cuda part")


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
    assert "  cpu: missing, no C++ compiler (looked for g++, c++, clang++)" in lines
