"""Which compilers there are, and which parts of the native core they are to build."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

MODES = ("auto", "cpu", "cuda", "none")
TOOLKIT = "/usr/local/cuda"
DEFAULT_ARCHITECTURES = ("8.0", "9.0a", "10.0")


class BuildError(Exception):
    """A part of the native core can't be built; the message says why."""


def mode() -> str:
    """What `SLIMKERN_BUILD` asks for: auto (whatever works), cpu, cuda (both must work), or none.

    Raises:
        SystemExit: an unknown mode.
    """
    asked = os.environ.get("SLIMKERN_BUILD") or "auto"
    if asked not in MODES:
        raise SystemExit(f"SLIMKERN_BUILD={asked} is unknown: it must be one of {', '.join(MODES)}")
    return asked


@dataclass(frozen=True)
class Toolchain:
    """The compilers found, None where there is none or none is asked for, and why."""

    cxx: str | None
    nvcc: str | None
    left_out: dict[str, str] = field(default_factory=dict)

    @classmethod
    def find(cls) -> Toolchain:
        """Look for a C++ compiler and for nvcc, as far as `SLIMKERN_BUILD` asks for them.

        Raises:
            SystemExit: `SLIMKERN_BUILD` asks for what isn't there.
        """
        asked = mode()
        if asked == "none":
            return cls(None, None, dict.fromkeys(("cpu", "cuda"), "SLIMKERN_BUILD=none"))
        found, left_out = _find(asked)
        missing = [part for part in ("cpu", "cuda") if part in left_out and asked in (part, "cuda")]
        if missing:
            raise SystemExit(f"SLIMKERN_BUILD={asked}: {'; '.join(dict.fromkeys(left_out[part] for part in missing))}")
        return cls(found.get("cxx"), found.get("nvcc"), left_out)


def _find(asked: str) -> tuple[dict[str, str], dict[str, str]]:
    if not sys.platform.startswith("linux"):
        reason = f"the native core is built on Linux only, not on {sys.platform}"
        return {}, dict.fromkeys(("cpu", "cuda"), reason)
    cxx = find_cxx()
    if not cxx:
        return {}, dict.fromkeys(("cpu", "cuda"), "no C++ compiler (looked for g++, c++, clang++)")
    if asked == "cpu":
        return {"cxx": cxx}, {"cuda": "SLIMKERN_BUILD=cpu"}
    nvcc = find_nvcc()
    if not nvcc:
        return {"cxx": cxx}, {"cuda": f"no nvcc (looked in {_places_of_nvcc()})"}
    return {"cxx": cxx, "nvcc": nvcc}, {}


def find_cxx() -> str | None:
    """The C++ compiler: that of `CXX` and no other, if it is set.

    Raises:
        SystemExit: `CXX` names none.
    """
    named = os.environ.get("CXX")
    if named and not shutil.which(named):
        raise SystemExit(f"CXX={named} can't be run: it must be the name or the path of one program")
    return next(filter(None, map(shutil.which, [named] if named else ["g++", "c++", "clang++"])), None)


def find_nvcc() -> str | None:
    """The compiler for CUDA: that of `CUDA_HOME` or `CUDA_PATH` and no other, if one of them is set."""
    home = _cuda_home()
    places = [str(Path(home[1]) / "bin" / "nvcc")] if home else ["nvcc", f"{TOOLKIT}/bin/nvcc"]
    return next(filter(None, map(shutil.which, places)), None)


def _places_of_nvcc() -> str:
    home = _cuda_home()
    return "=".join(home) if home else f"PATH, {TOOLKIT}; CUDA_HOME isn't set"


def _cuda_home() -> tuple[str, str] | None:
    """The variable that names a toolkit, and its value."""
    named = [(name, os.environ.get(name)) for name in ("CUDA_HOME", "CUDA_PATH")]
    return next(((name, home) for name, home in named if home), None)


def torch_root() -> Path:
    """The folder of the torch to compile against; it isn't imported, which takes seconds.

    Raises:
        BuildError: there is none, or it is older than 2.11.
    """
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        torch = distribution("torch")
    except PackageNotFoundError:
        raise BuildError("torch is not installed where the build runs") from None
    if tuple(int(number) for number in re.findall(r"\d+", torch.version)[:2]) < (2, 11):
        raise BuildError(f"torch {torch.version} is too old: its stable ABI is needed in version 2.11 or newer")
    return Path(str(torch.locate_file("torch")))


def version_of(compiler: str) -> str:
    """The line in which a compiler says its version."""
    lines = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout.splitlines()
    return next((line for line in lines if "release" in line), lines[0] if lines else "unknown version")


def architectures(nvcc: str) -> list[str]:
    """The CUDA architectures to compile for: those of `TORCH_CUDA_ARCH_LIST`, such as 8.0;9.0a;10.0+PTX.

    Raises:
        BuildError: an architecture is no such number.
    """
    asked = os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip()
    if not asked:
        return _default_architectures(nvcc)
    listed = re.split(r"[;,\s]+", asked)
    for architecture in listed:
        if not re.fullmatch(r"\d+\.\d[af]?(\+PTX)?", architecture):
            raise BuildError(
                f"TORCH_CUDA_ARCH_LIST holds {architecture!r}; it takes numbers such as 8.0, 9.0a, 10.0+PTX"
            )
    return listed


def _default_architectures(nvcc: str) -> list[str]:
    """Those of the default ones that this nvcc knows, the newest also for GPUs to come."""
    said = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True).stdout
    known = {name.removeprefix("compute_") for name in said.split()}
    fitting = [listed for listed in DEFAULT_ARCHITECTURES if re.sub(r"\D", "", listed) in known]
    if not fitting:
        raise BuildError(f"{nvcc} knows none of the architectures {', '.join(DEFAULT_ARCHITECTURES)}")
    return [*fitting[:-1], f"{fitting[-1]}+PTX"]


def code_options(listed: list[str]) -> list[str]:
    """nvcc's options for these architectures."""
    options = []
    for architecture in listed:
        number = architecture.removesuffix("+PTX").replace(".", "")
        options.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if architecture.endswith("+PTX"):
            options.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return options
