"""Running compilers: several at a time, and only for what has changed."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from toolchain import BuildError


@dataclass(frozen=True)
class Compilation:
    """A command that makes `output` of `inputs`."""

    command: list[str]
    inputs: list[Path]
    output: Path

    def run(self) -> Path:
        """Make the output, unless the same command has made it since the inputs changed.

        Raises:
            BuildError: the command failed.
        """
        record = self.output.with_suffix(".command")
        line = shlex.join(self.command)
        if not self._is_fresh(record, line):
            self.output.parent.mkdir(parents=True, exist_ok=True)
            record.unlink(missing_ok=True)
            run(self.command)
            record.write_text(line)
        return self.output

    def _is_fresh(self, record: Path, line: str) -> bool:
        if not (self.output.exists() and record.exists() and record.read_text() == line):
            return False
        made = self.output.stat().st_mtime
        return all(path.stat().st_mtime <= made for path in self.inputs)


def compile_all(compilations: Sequence[Compilation]) -> list[Path]:
    """Run them, `MAX_JOBS` at a time or as many as there are processors.

    Raises:
        BuildError: one failed.
    """
    jobs = int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)
    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(Compilation.run, compilations))


def link(linker: Sequence[str | None], objects: list[Path], target: Path, libraries: list[str]) -> None:
    """Make a shared library.

    Raises:
        BuildError: the linker failed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    run([*map(str, linker), "-shared", *map(str, objects), "-o", str(target), *libraries])


def run(command: list[str]) -> None:
    """Run a command.

    Raises:
        BuildError: it failed; the message ends with what it printed.
    """
    print(shlex.join(command), flush=True)
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise BuildError(f"{command[0]} can't be run: {error}") from None
    if done.returncode:
        said = (done.stderr or done.stdout)[-4000:]
        raise BuildError(f"{Path(command[0]).name} failed with exit code {done.returncode}\n{said}")
