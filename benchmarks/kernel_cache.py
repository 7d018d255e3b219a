"""A cache of Triton's, filled without a GPU: so that a machine which has one compiles nothing.

    python benchmarks/kernel_cache.py --cache DIR [--batches 64] [--scrolls 0 1] [--precisions bf16] [--tests]
    python benchmarks/kernel_cache.py --cache DIR --moved

The first command compiles what a training step and the sweep over its layers launch: every configuration that suits a
pass, each way to read a weight, with moments and without. It serves a machine with the same wheel of Triton, provided
the sources of the kernels are the same, to the line. Triton notes where each file of its cache lies: the second command
is for a cache that was carried elsewhere.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from unittest import mock
from zlib import crc32

from absent_gpu import Launch, absent_gpu

ROOT = Path(__file__).resolve().parents[1]
TESTS = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.without_gpu"]
TESTS += [f"tests/gpu/test_{name}.py" for name in ("scroll_conv2d", "exactness", "training_steps")]
"""Those of tests/gpu that launch kernels of Triton's, and know how to do without a GPU."""


def fill(options: argparse.Namespace, share: int) -> None:
    """Compile a share of what is launched into Triton's cache, and print what came of it."""
    from dry_runs import layers, training

    shares = options.processes
    with absent_gpu(lambda key: crc32(key.encode()) % shares == share, every=True) as launches:
        for precision in options.precisions:
            for batch in options.batches:
                for scroll in options.scrolls:
                    training(batch, precision, scroll)()
                layers(batch, precision)
    prepare_launchers(launches, options.cache)
    compiled = {own.key for own in launches if own.code is not None}
    print(json.dumps({"launches": len(launches), "kernels": len(compiled)}), flush=True)


def prepare_launchers(launches: Sequence[Launch], folder: Path) -> None:
    """Let Triton compile what calls the driver, too: linked with a library that has the driver's name and no more."""
    from triton.backends.nvidia import driver
    from triton.runtime import build

    codes = {own.key: own.code for own in launches if own.code is not None}
    stand_in = folder / "libcuda"
    if not (stand_in / "libcuda.so.1").exists():
        stand_in.mkdir(parents=True, exist_ok=True)
        command = "gcc -shared -x c /dev/null -Wl,-soname,libcuda.so.1 -o".split()
        subprocess.run([*command, stand_in / "libcuda.so.1"], check=True)
    with (
        mock.patch.dict(os.environ, TRITON_LIBCUDA_PATH=str(stand_in)),
        mock.patch.object(build, "_load_module_from_path", mock.MagicMock()),  # it is wanted elsewhere, not here
        mock.patch.object(driver, "PyCUtensorMap", None),
    ):
        driver.library_dirs.cache_clear()
        driver.CudaUtils.__init__(mock.MagicMock())
        if hasattr(driver, "make_launcher"):  # later ones need no compiler for that
            for code in codes.values():
                driver.CudaLauncher(code.src, code.metadata)


def _in_shares(command: Sequence[str], options: argparse.Namespace) -> bool:
    """Run a command of this interpreter once for each share, all at a time; whether all ended well."""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(options.cache), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, *(word.format(share=share, shares=options.processes) for word in command)],
            cwd=ROOT, env=environment,
        )
        for share in range(options.processes)
    ]  # fmt: skip
    endings = [process.wait() for process in processes]
    return not any(endings)


STAGES = ("source", "ttir", "ttgir", "llir", "ptx")
"""Of a compilation, all but the last."""


def slim(folder: Path) -> None:
    """Leave out of a cache of Triton's what only people read."""
    for stage in STAGES:
        for file in folder.glob(f"*/*.{stage}"):
            file.unlink()
    moved(folder)


def moved(folder: Path) -> None:
    """Tell a cache of Triton's where it lies now, and what is left of it."""
    for group in folder.glob("*/__grp__*.json"):
        content = json.loads(group.read_text(encoding="utf-8"))
        places = {name: group.parent / Path(path).name for name, path in content["child_paths"].items()}
        paths = {name: str(place) for name, place in places.items() if place.exists()}
        group.write_text(json.dumps({"child_paths": paths}), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder of the cache")
    parser.add_argument("--moved", action="store_true", help="the cache was carried here: tell it where it lies")
    parser.add_argument("--batches", type=int, nargs="+", default=[64])
    parser.add_argument("--scrolls", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--precisions", nargs="+", default=["bf16"], choices=("fp32", "tf32", "bf16", "fp16"))
    parser.add_argument("--tests", action="store_true", help="also the kernels of tests/gpu, which takes longer")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--share", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.cache = options.cache.resolve()
    if options.processes < 1:
        parser.error(f"--processes {options.processes} must be 1 or more")
    if options.moved and not options.cache.is_dir():
        parser.error(f"--cache {options.cache} is no folder")
    if options.moved:
        moved(options.cache)
    elif options.share is None:
        whole = _in_shares([__file__, *(arguments or sys.argv[1:]), "--share", "{share}"], options)
        if options.tests:
            whole &= _in_shares([*TESTS, "--compile", "{share}/{shares}"], options)
        slim(options.cache)
        if not whole:
            raise SystemExit("the cache isn't whole: what is missing will be compiled where it is used")
    else:
        sys.path.insert(0, str(ROOT))
        fill(options, options.share)


if __name__ == "__main__":
    main()
