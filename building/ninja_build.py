"""Libraries by ninja, which makes again what has changed: a source, a header that it includes, or a command."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
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
        BuildError: there is no ninja, or a compiler or the linker failed.
        SystemExit: `MAX_JOBS` isn't a number.
    """
    program = _ninja()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "build.ninja").write_text(_described(name, compilations, linker, libraries), encoding="utf-8")
    jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
    if not re.fullmatch(r"[1-9]\d*", jobs):
        raise SystemExit(f"MAX_JOBS={jobs} must be a number of processes, 1 or more")
    command = [program, "-j", jobs]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip())
    if process.returncode:
        raise BuildError("\n".join([_reason(lines), *lines])[:8000])
    return folder / name


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
    # Below that line stand the command, what it printed, and ninja's own last words.
    printed = [line for line in lines[failed + 2 :] if line and not line.startswith(("ninja: ", "["))]
    output = lines[failed].split()[-1]
    return f"{output}: {next(filter(TELLING.search, printed), printed[0] if printed else 'no word of why')}"
