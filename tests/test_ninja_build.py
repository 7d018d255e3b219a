"""What is made again, and what is left as it is."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from tests.building_modules import load

toolchain, ninja_build = load("toolchain"), load("ninja_build")
CXX, NVCC = toolchain.find_cxx(), toolchain.find_nvcc()

pytestmark = pytest.mark.skipif(CXX is None, reason="needs a C++ compiler")


class Project:
    """Two sources, one of which includes a header, which includes another; by this compiler."""

    def __init__(self, folder: Path, compiler: list[str], ending: str) -> None:
        self.folder, self.compiler = folder / "a folder with $igns: and spaces", [*compiler, f"-I{folder}"]
        (folder / "outer.cuh").write_text('#include "inner.h"\n')
        (folder / "inner.h").write_text("inline int number() { return 1; }\n")
        self.with_header, self.without = folder / f"with.{ending}", folder / f"without.{ending}"
        self.with_header.write_text('#include "outer.cuh"\nint number_there() { return number(); }\n')
        self.without.write_text("int other() { return 2; }\n")

    def make(self, *options: str) -> set[str]:
        """Build; the names of what was made, and not left as it was."""
        before = self._times()
        compilations = [
            ninja_build.Compilation(self.compiler, self.with_header),
            ninja_build.Compilation([*self.compiler, *options], self.without),
        ]
        ninja_build.make_library(self.folder, "library.so", compilations, self.compiler)
        return {name for name, time in self._times().items() if time != before.get(name)}

    def _times(self) -> dict[str, int]:
        return {path.name.split("_")[-1]: path.stat().st_mtime_ns for path in self.folder.glob("*.[os]*")}


@pytest.fixture(params=["cpp", pytest.param("cu", marks=pytest.mark.skipif(NVCC is None, reason="needs nvcc"))])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Project:
    position_free = "-fPIC" if request.param == "cpp" else "-Xcompiler=-fPIC"
    return Project(tmp_path, [str(CXX if request.param == "cpp" else NVCC), position_free], request.param)


def later(path: Path, text: str) -> None:
    """Change a file after what was built of it, however coarse the clock of the file system is."""
    path.write_text(text)
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 2 * 10**9))


def test_only_what_has_changed_is_made_again(project: Project) -> None:
    with_header, without = f"{project.with_header.name}.o", f"{project.without.name}.o"
    assert project.make() == {with_header, without, "library.so"}
    assert project.make() == set()
    later(project.with_header.parent / "outer.cuh", '#include "inner.h"\n// changed\n')
    assert project.make() == {with_header, "library.so"}


def test_headers_of_headers_and_commands_count(project: Project) -> None:
    with_header, without = f"{project.with_header.name}.o", f"{project.without.name}.o"
    project.make()
    assert project.make("-DMORE") == {without, "library.so"}
    later(project.with_header.parent / "inner.h", "inline int number() { return 3; }\n")
    assert project.make("-DMORE") == {with_header, "library.so"}


def test_a_failure_is_told_by_its_first_error(project: Project) -> None:
    project.without.write_text("int other() { return nowhere; }\n")
    with pytest.raises(toolchain.BuildError, match=r"^\S+without\.\w+\.o: .*error.*nowhere"):
        project.make()


def test_a_failure_to_link_is_told_by_its_first_error(tmp_path: Path) -> None:
    project = Project(tmp_path, [str(CXX), "-fPIC"], "cpp")
    project.without.write_text(project.with_header.read_text())
    with pytest.raises(toolchain.BuildError, match=r"^library\.so: .*multiple definition"):
        project.make()


def program(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_a_compiler_that_makes_nothing_is_told(tmp_path: Path) -> None:
    idle = program(tmp_path / "idle", "exit 0")
    with pytest.raises(toolchain.BuildError, match=r"^\S+with\.cpp\.o: its command exited with 0, but didn't make it$"):
        Project(tmp_path, [idle], "cpp").make()


def test_a_linker_that_makes_nothing_is_told(tmp_path: Path) -> None:
    compiles_only = program(tmp_path / "compiles", f'case "$*" in *-shared*) ;; *) exec {CXX} "$@" ;; esac')
    with pytest.raises(toolchain.BuildError, match=r"^library\.so: its command exited with 0, but didn't make it$"):
        Project(tmp_path, [compiles_only, "-fPIC"], "cpp").make()


def test_what_was_made_before_does_not_stand_in_for_what_was_not(project: Project, tmp_path: Path) -> None:
    project.make()
    project.compiler[0] = program(tmp_path / "idle", "exit 0")
    for _ in range(2):
        with pytest.raises(toolchain.BuildError, match="its command exited with 0, but didn't make it"):
            project.make()


@pytest.mark.parametrize("status", ["", "%p "])
def test_a_compiler_that_fails_without_a_word_is_told(
    status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NINJA_STATUS", status)
    monkeypatch.setenv("MAX_JOBS", "2")  # both fail, and neither speaks for the other
    silent = program(tmp_path / "silent", "exit 3")
    with pytest.raises(toolchain.BuildError) as failure:
        Project(tmp_path, [silent], "cpp").make()
    first = str(failure.value).splitlines()[0]
    assert re.fullmatch(r"\S+with(out)?\.cpp\.o: its command printed nothing and exited with (3|an error)", first)


@pytest.mark.parametrize("jobs", ["all", "0", "-1"])
def test_a_number_of_jobs_must_be_one(jobs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_JOBS", jobs)
    with pytest.raises(SystemExit, match=f"MAX_JOBS={jobs} must be a number"):
        Project(tmp_path, [str(CXX)], "cpp").make()


def test_a_missing_ninja_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ninja", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(toolchain.BuildError, match="ninja is not installed"):
        Project(tmp_path, [str(CXX)], "cpp").make()
