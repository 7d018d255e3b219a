"""Libraries by ninja, which makes again what has changed: a source, a header that it includes, or a command."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from toolchain import BuildError

RULES = """\
ninja_required_version = 1.5

rule compile
  command = $compiler -MD -MF $out.d -c $in -o $out
  depfile = $out.d
  deps = gcc
  description = compile $out

rule link
  command = $linker -shared $in -o $out $libraries
  description = link $out
"""
TELLING = re.compile(
    r"error(?!: ld returned)|undefined reference|multiple definition|cannot find|not found", re.IGNORECASE
)
OF_NINJA = re.compile(r"FAILED: |ninja: |\[\d+/\d+\] ")


@dataclass(frozen=True)
class Compilation:
    """A compiler with its options, the source that it is for, and what makes the object's name unlike others'."""

    compiler: list[str]
    source: Path
    suffix: str = ""

    @property
    def object(self) -> str:
        """The object's name in the folder of the build."""
        return f"{self.source.parent.name}_{self.source.stem}{self.suffix}{self.source.suffix}.o"


def make_library(
    folder: Path, name: str, compilations: Sequence[Compilation], linker: Sequence[str], libraries: Sequence[str] = ()
) -> Path:
    """Compile, `MAX_JOBS` at a time or as many as there are processors, and link what came of it.

    Raises:
        BuildError: there is no ninja, or a compiler or the linker failed, or made nothing.
        SystemExit: `MAX_JOBS` isn't a number.
    """
    program = _ninja()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "build.ninja").write_text(_described(name, compilations, linker, libraries), encoding="utf-8")
    jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
    if not re.fullmatch(r"[1-9]\d*", jobs):
        raise SystemExit(f"MAX_JOBS={jobs} must be a number of processes, 1 or more")
    _remove_what_is_due(program, folder)
    command = [program, "-j", jobs]
    with subprocess.Popen(
        command, cwd=folder, env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip())
    if process.returncode:
        raise BuildError("\n".join([_reason(lines), *lines])[:8000])
    for output in [*(compilation.object for compilation in compilations), name]:
        if not (folder / output).is_file():
            raise BuildError(f"{output}: its command exited with 0, but didn't make it")
    return folder / name


def _remove_what_is_due(program: str, folder: Path) -> None:
    """Remove what is to be made again, so that an earlier one can't stand in for what a command doesn't make."""
    told = subprocess.run([program, "-n"], cwd=folder, env=_environment(), capture_output=True, text=True).stdout
    for output in re.findall(r"^\[\d+/\d+\] (?:compile|link) (.+)$", told, re.MULTILINE):
        (folder / output).unlink(missing_ok=True)


def _environment() -> dict[str, str]:
    return {**os.environ, "NINJA_STATUS": "[%f/%t] "}  # what is read here of ninja's lines goes by it


def _ninja() -> str:
    """The program: that of Python's package, whose folder needn't be on the path, or the system's."""
    try:
        from ninja import BIN_DIR
    except ImportError:
        BIN_DIR = ""
    program = shutil.which("ninja", path=BIN_DIR) or shutil.which("ninja")
    if program is None:
        raise BuildError("ninja is not installed where the build runs")
    return program


def _described(name: str, compilations: Sequence[Compilation], linker: Sequence[str], libraries: Sequence[str]) -> str:
    parts = [RULES]
    for compilation in compilations:
        parts.append(f"build {_path(compilation.object)}: compile {_path(compilation.source)}")
        parts.append(f"  compiler = {_command(compilation.compiler)}\n")
    parts.append(f"build {_path(name)}: link {' '.join(_path(compilation.object) for compilation in compilations)}")
    parts.append(f"  linker = {_command(linker)}\n  libraries = {_command(libraries)}\n")
    return "\n".join(parts)


def _path(path: Path | str) -> str:
    return re.sub(r"([$ :])", r"$\1", str(path))


def _command(words: Sequence[str]) -> str:
    return shlex.join(words).replace("$", "$$")


def _reason(lines: list[str]) -> str:
    """The line that tells most of what went wrong: the first error of the command that failed."""
    failed = next((place for place, line in enumerate(lines) if line.startswith("FAILED: ")), None)
    if failed is None:
        return lines[-1] if lines else "ninja failed without a word"
    # Below that line stand the command and what it printed; then comes another command, or ninja's own last words.
    printed = list(takewhile(lambda line: not OF_NINJA.match(line), lines[failed + 2 :]))
    output = lines[failed].split()[-1]
    code = re.match(r"FAILED: \[code=(\d+)\]", lines[failed])  # ninja tells it since version 1.13
    silent = f"its command printed nothing and exited with {code[1] if code else 'an error'}"
    return f"{output}: {next(filter(TELLING.search, printed), next(filter(None, printed), silent))}"
