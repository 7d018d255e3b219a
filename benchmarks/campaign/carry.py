"""What a machine without a registry, or without time, needs beforehand: a folder that travels with the checkout."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import absent_gpu

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = ("libslimkern_cpu.so", "libslimkern_cuda.so")
WHEELS = {"hypothesis": "hypothesis", "pytest-timeout": "pytest_timeout", "sortedcontainers": "sortedcontainers"}
"""What tests/gpu need beside pytest and its xdist, and the modules that those are imported by."""


def carry(folder: Path, python: str = sys.executable) -> None:
    """Fill a folder with `lib/` (the native core for compute capability 9.0), `triton/` (kernels) and `wheels/`.

    Args:
        folder: what is there already stays, and isn't made again.
        python: an interpreter with the torch and Triton of the machine that it is for.

    Raises:
        subprocess.CalledProcessError: a part can't be made; it printed why.
    """
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    libraries = folder / "lib"
    if not all((libraries / name).is_file() for name in LIBRARIES):
        build = [python, "setup.py", "-q", "build_ext", "--inplace"]
        for_hopper = {"SLIMKERN_BUILD": "cuda", "TORCH_CUDA_ARCH_LIST": "9.0a"}
        subprocess.run(build, cwd=ROOT, env=environment | for_hopper, check=True)
        libraries.mkdir(exist_ok=True)
        for name in LIBRARIES:
            shutil.copy(ROOT / "slimkern" / name, libraries)
    script = [python, str(ROOT / "benchmarks" / "absent_gpu.py"), "--cache", str(folder / "triton")]
    subprocess.run(script, cwd=ROOT, env=environment, check=True)
    wheels = [python, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder / "wheels"), *WHEELS]
    subprocess.run(wheels, check=True)


def unpack(folder: Path) -> dict[str, str]:
    """Put the libraries in place where there are none, and install the wheels of packages that are missing.

    Returns:
        Variables for the environment of all that is to use the checkout and what was carried.

    Raises:
        subprocess.CalledProcessError: pip can't install the wheels; it printed why.
    """
    for library in folder.glob("lib/lib*.so"):
        target = ROOT / "slimkern" / library.name
        if not target.is_file():
            shutil.copy(library, target)
    paths = [str(ROOT), os.environ.get("PYTHONPATH")]
    wheels = [str(wheel) for wheel in folder.glob("wheels/*.whl")]
    if wheels and any(importlib.util.find_spec(module) is None for module in WHEELS.values()):
        site = str((folder / "site").resolve())
        install = ["-m", "pip", "install", "-q", "--no-index", "--no-deps", "--upgrade", "--target", site]
        subprocess.run([sys.executable, *install, *wheels], check=True)
        paths.append(site)
    variables = {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    cache = (folder / "triton").resolve()
    if cache.is_dir():
        absent_gpu.moved(cache)
        variables["TRITON_CACHE_DIR"] = str(cache)
    return variables
