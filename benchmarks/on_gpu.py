"""All that needs a GPU: build, tests/gpu, compute-sanitizer, benchmarks.

    python benchmarks/on_gpu.py [--skip sanitizer] [--only tests]

`make gpu` calls it; it needs no more than a Python with torch, Triton and pytest, so it also runs from a plain checkout
on a machine that can install nothing. Each part that fails or can't run is told at the end and sets the exit status.
Rows of the benchmarks go to benchmarks/results/<gpu>.json, with versions and commit.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SANITIZED = "float32 or bfloat16"
"""What compute-sanitizer runs of tests/gpu: every kernel, of 32 and of 16 bits."""


def why_not() -> str | None:
    """Why nothing of this can run here; None where it can."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed"
    import torch

    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():
        return "torch finds no CUDA GPU"
    return None


def build() -> str | None:
    """Compile the native core in place; why it failed, or None."""
    return _run([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], SLIMKERN_BUILD="auto")


def tests() -> str | None:
    """tests/gpu."""
    if importlib.util.find_spec("pytest") is None:
        return "pytest is not installed"
    return _run([sys.executable, "-m", "pytest", "-q", "tests/gpu"])


def sanitizer() -> str | None:
    """memcheck and racecheck over two dtypes of tests/gpu."""
    tool = sanitizer_path()
    if tool is None:
        return "there is no compute-sanitizer (looked in PATH and in CUDA_HOME/bin); CUDA's toolkit brings it"
    pytest = [sys.executable, "-m", "pytest", "-q", "-x", "tests/gpu", "-k", SANITIZED]
    for check in ("memcheck", "racecheck"):
        command = [tool, "--tool", check, "--error-exitcode", "99", "--target-processes", "all", *pytest]
        # Without PyTorch's cache every tensor is an allocation of its own, whose ends are watched.
        if reason := _run(command, PYTORCH_NO_CUDA_MEMORY_CACHING="1"):
            return f"{check}: {reason}"
    return None


def benchmarks() -> str | None:
    """Every benchmark; those that measure a CPU say so."""
    failed = []
    for path in sorted((ROOT / "benchmarks").glob("bench_*.py")):
        reason = _run([sys.executable, str(path), "--device", "cuda", "--save"])
        failed += [f"{path.name}: {reason}"] if reason else []
    return "; ".join(failed) or None


PARTS: Mapping[str, Callable[[], str | None]] = {
    "build": build,
    "tests": tests,
    "sanitizer": sanitizer,
    "benchmarks": benchmarks,
}


def sanitizer_path() -> str | None:
    """Where compute-sanitizer is."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    places = ["compute-sanitizer", *(f"{home}/bin/compute-sanitizer" for home in homes if home)]
    return next(filter(None, map(shutil.which, places)), None)


def _run(command: list[str], **variables: str) -> str | None:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    status = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path, **variables}).returncode
    return f"exit status {status}" if status else None


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to run")
    options.add_argument("--skip", nargs="+", choices=PARTS, default=[], help="parts to leave out")
    arguments = options.parse_args()
    if reason := why_not():
        print(f"there is nothing to do without a GPU: {reason}", file=sys.stderr)
        return 2
    outcomes = {}
    for name in (name for name in PARTS if name in arguments.only and name not in arguments.skip):
        print(f"\n== {name}", flush=True)
        began = time.monotonic()
        outcomes[name] = (PARTS[name](), time.monotonic() - began)
    print()
    for name, (reason, seconds) in outcomes.items():
        print(f"{name}: {reason or 'passed'} ({seconds:.0f} s)")
    return int(any(reason for reason, _ in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())
