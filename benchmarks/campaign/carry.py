"""What a machine without a registry, or without time, needs beforehand: a folder that travels with the checkout."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import kernel_cache

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / "build" / "triton-cache"
LIBRARIES = ("libslimkern_cpu.so", "libslimkern_cuda.so")
WHEELS = {"hypothesis": "hypothesis", "pytest-timeout": "pytest_timeout", "sortedcontainers": "sortedcontainers"}
"""What tests/gpu need beside pytest and its xdist, and the modules that those are imported by."""


def carry(folder: Path) -> None:
    """Fill a folder with `lib/` (the native core for compute capability 9.0), `triton.tar.gz` (kernels) and `wheels/`.

    Made by this interpreter, it serves machines with the same Python, torch and Triton. What is there already and still
    holds isn't made again.

    Raises:
        subprocess.CalledProcessError: a part can't be made; it printed why.
    """
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    built = folder.resolve() / "build"
    build = ["setup.py", "-q", "build_ext", "--build-lib", str(built), "--build-temp", str(built / "temporary")]
    for_hopper = {"SLIMKERN_BUILD": "cuda", "TORCH_CUDA_ARCH_LIST": "9.0a"}
    subprocess.run([sys.executable, *build], cwd=ROOT, env=environment | for_hopper, check=True)
    (folder / "lib").mkdir(exist_ok=True)
    for name in LIBRARIES:
        shutil.copy(built / "slimkern" / name, folder / "lib")
    shutil.rmtree(built)
    kernels = [str(ROOT / "benchmarks" / "kernel_cache.py"), "--tests", "--cache", str(CACHE)]
    subprocess.run([sys.executable, *kernels], cwd=ROOT, env=environment, check=True)
    shutil.make_archive(str(folder / "triton"), "gztar", CACHE)
    wheels = ["-m", "pip", "download", "-q", "--no-deps", "-d", str(folder / "wheels"), *WHEELS]
    subprocess.run([sys.executable, *wheels], check=True)


def unpack(folder: Path, tell: Callable[[str], None] = print) -> dict[str, str]:
    """Put the libraries in place where there are none, and install the wheels of packages that are missing.

    What can't be used is told, and does without: the libraries and kernels are compiled where they are needed.

    Args:
        folder: as `carry` has filled it, or none.
        tell: takes a line for people.

    Returns:
        Variables for the environment of all that is to use the checkout and what was carried.
    """
    for library in folder.glob("lib/lib*.so"):
        target = ROOT / "slimkern" / library.name
        if not target.is_file():
            beside = target.with_suffix(".part")
            shutil.copy(library, beside)
            beside.replace(target)
        elif target.read_bytes() != library.read_bytes():
            tell(f"{target.name} of the checkout is used, not the one that was carried, which differs")
    paths, variables = [str(ROOT), os.environ.get("PYTHONPATH")], {}
    try:
        paths += _installed(folder)
    except subprocess.CalledProcessError as error:
        tell(f"the wheels that were carried can't be installed: {error}")
    try:
        variables |= _kernels(folder)
    except (OSError, ValueError, KeyError, shutil.ReadError, tarfile.TarError) as error:
        tell(f"the kernels that were carried can't be used: {type(error).__name__}: {error}")
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths))} | variables


def _installed(folder: Path) -> list[str]:
    """Where the wheels are installed, if a package of theirs is missing."""
    wheels = [str(wheel) for wheel in folder.glob("wheels/*.whl")]
    if not wheels or all(importlib.util.find_spec(module) for module in WHEELS.values()):
        return []
    site = str((folder / "site").resolve())
    install = ["-m", "pip", "install", "-q", "--no-index", "--no-deps", "--upgrade", "--target", site]
    subprocess.run([sys.executable, *install, *wheels], check=True)
    return [site]


def _kernels(folder: Path) -> dict[str, str]:
    """The variable that names the cache of kernels, unpacked."""
    archive, cache = folder / "triton.tar.gz", (folder / "triton").resolve()
    if not archive.is_file():
        return {}
    shutil.unpack_archive(archive, cache, filter="data")
    kernel_cache.moved(cache)
    return {"TRITON_CACHE_DIR": str(cache)}
