"""A GPU that isn't there: Triton's launches on tensors of the CPU go as far as the driver's door, and no further.

    python benchmarks/absent_gpu.py --cache DIR [--batches 64] [--scrolls 0 1] [--precisions bf16] [--processes 2]
    python benchmarks/absent_gpu.py --cache DIR --moved

Until that door all is as on the GPU: the choice of a configuration, the plan and its grid, the specialisation of the
arguments and, if wanted, the compilation. What was launched is noted, nothing runs, and results hold anything.

The first command fills a cache of Triton's with what a training step and the sweep over its layers launch: every
configuration that suits a pass, each way to read a weight, with moments and without. A machine with such a GPU and the
same wheels then compiles nothing, provided the sources of the kernels are the same, to the line. Triton notes where
each file of its cache lies: the second command is for a cache that was carried elsewhere, and needs no Triton.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock
from zlib import crc32

GPU = SimpleNamespace(
    name="NVIDIA H100 80GB HBM3",
    major=9,
    minor=0,
    multi_processor_count=132,
    regs_per_multiprocessor=64 * 1024,
    shared_memory_per_multiprocessor=228 * 1024,
    shared_memory_per_block_optin=227 * 1024,
)
"""What PyTorch would say of it; an H200 differs in its name and its memory only."""

WARP = 32


class Launch(NamedTuple):
    """A launch that came to the driver's door.

    Attributes:
        kernel: its name.
        grid: programs along each axis.
        constants: arguments by name, among them those of the compiler.
        key: of what is compiled for it; launches with equal ones share their code.
        code: as Triton compiled it, if it was to.
        problem: the pass that a tuner was asked for, by its key; None outside of one.
        note: what whoever follows the launches noted of this one.
    """

    kernel: str
    grid: tuple[int, ...]
    constants: dict[str, Any]
    key: str
    code: Any
    problem: str | None
    note: Any


class Resources(NamedTuple):
    """What compiled code takes: registers of a thread, bytes of its memory (spilled registers), of shared memory."""

    registers: int
    stack: int
    shared: int


def resources(code: Any) -> Resources:
    """Read it off the code."""
    return _resources(code.asm["cubin"], code.metadata.shared)


@cache
def _resources(cubin: bytes, shared: int) -> Resources:
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [tool, "--dump-resource-usage", file.name]
        usage = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", usage).groups()
    return Resources(int(registers), int(stack), shared)


class Door:
    """Stands for the driver: answers what is asked before a launch."""

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 10 * GPU.major + GPU.minor, WARP)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def no_note(kernel: str, arguments: dict[str, Any], grid: tuple[int, ...]) -> None: ...


@contextmanager
def absent_gpu(
    compiles: Callable[[str], bool] = lambda key: False,
    every: bool = False,
    note: Callable[[str, dict[str, Any], tuple[int, ...]], Any] = no_note,
) -> Iterator[list[Launch]]:
    """Let Triton's launches on tensors of the CPU go to the driver's door; gives the list that they are noted in.

    Args:
        compiles: whether the code of a launch is compiled, by its key.
        every: a tuner runs every way that Triton has, by every configuration that suits, not the best one alone.
        note: told the kernel, the arguments by their names and the grid, gives what is kept with the launch.
    """
    import torch
    import triton
    from triton.runtime.jit import JITFunction

    from slimkern.kernels import launch, scroll_conv2d_plan, scroll_conv2d_weight_gradient, tuning
    from slimkern.ops import triton as operators

    cuda = torch.device("cuda", 0)
    launches: list[Launch] = []
    run, tuned, on_device = JITFunction.run, tuning.Tuner.run, launch.on_device
    present: list[str | None] = [None]

    def stop(kernel: JITFunction, *arguments: Any, grid: Any, warmup: bool, **constants: Any) -> Any:
        key = f"{kernel.__name__} {_described(arguments)} {constants}"
        code = run(kernel, *arguments, grid=grid, warmup=True, **constants) if compiles(key) else None
        if warmup:  # somebody asks what a launch to come takes
            return code
        named = dict(zip(kernel.arg_names, arguments, strict=False)) | constants
        noted = note(kernel.__name__, named, tuple(grid))
        launches.append(Launch(kernel.__name__, tuple(grid), constants, key, code, present[0], noted))
        return code

    def numbers(array: Any, device: torch.device) -> torch.Tensor:
        # Copied, so that they lie as evenly in memory as a GPU's do; refused where a GPU's would be.
        return on_device(array, cuda if torch.cuda.is_current_stream_capturing() else device).clone()

    def programs(device: Any, configuration: Any, kernel: Any, arguments: Any, constants: Any) -> int:
        code = kernel.warmup(*arguments, grid=(1,), **constants)
        needed = configuration if code is None else resources(code)
        return launch.resident(cuda, configuration.warps, needed.registers, needed.shared)

    def by_tuner(tuner: Any, problem: Any, calls: Any) -> Any:
        present[0] = problem.key
        try:
            if every:
                _run_all(problem, calls)
            return tuned(tuner, problem, calls)
        finally:
            present[0] = None

    patches = [
        (triton.runtime.driver, "_active", Door()),
        (JITFunction, "run", stop),
        (tuning.Tuner, "run", by_tuner),
        (tuning, "tuner", cache(lambda device: tuning.Tuner(cuda, own=Path("/nowhere")))),
        (tuning, "fingerprint", lambda device: GPU.name),
        (operators, "why_unavailable", lambda device: None),
        (torch.cuda, "get_device_properties", lambda device=None: GPU),
        (torch.cuda, "get_device_capability", lambda device=None: (GPU.major, GPU.minor)),
        (torch.cuda, "get_device_name", lambda device=None: GPU.name),
        (torch.cuda, "is_current_stream_capturing", lambda: False),
    ]
    planners = (scroll_conv2d_plan, scroll_conv2d_weight_gradient)
    for planner in planners:
        patches.append((planner, "programs", programs))
        patches.append((planner, "on_device", numbers))
    with ExitStack() as stack:
        for owner, name, replacement in patches:
            stack.enter_context(mock.patch.object(owner, name, replacement))
        for planner in planners:  # plans made here are for another number of processors
            _forget(planner)
            stack.callback(_forget, planner)
        yield launches


def _forget(module: Any) -> None:
    for function in vars(module).values():
        if getattr(function, "__module__", None) == module.__name__ and hasattr(function, "cache_clear"):
            function.cache_clear()


def _run_all(problem: Any, calls: Any) -> None:
    from slimkern.kernels.configurations import SLAB_BY_SLAB
    from slimkern.kernels.tuning import UNSUITABLE

    for way, call in calls.items():
        if way not in SLAB_BY_SLAB:
            for configuration in problem.candidates(True, GPU.shared_memory_per_block_optin):
                with suppress(*UNSUITABLE):
                    call(configuration)


def _described(argument: Any) -> Any:
    """What Triton specialises a kernel on: types, which pointers and whole numbers 16 divides, which ones are 1."""
    if isinstance(argument, tuple):
        return tuple(map(_described, argument))
    if hasattr(argument, "data_ptr"):
        return str(argument.dtype), argument.data_ptr() % 16 == 0
    if isinstance(argument, int) and not isinstance(argument, bool):
        return argument == 1, argument % 16 == 0, argument < 2**31
    return argument


def step(batch: int, precision: str, scroll: int, channels: int = 64) -> None:
    """Take a training step of `slimkern triton` on the CPU, within `absent_gpu`."""
    training(batch, precision, scroll, channels)()


def training(batch: int, precision: Any, scroll: int, channels: int = 64) -> Callable[[], None]:
    """What takes such a step, again and again."""
    import contenders
    from steps import Training

    from slimkern.continual.precision import tensor_float_32
    from slimkern.ops import backends, native
    from slimkern.widths import Widths

    base = contenders.base_network(channels)
    own = Training(contenders.slimkern(base, Widths.of(4), scroll), "eager", precision, batch, "cpu", "triton")
    own.select()
    if native.why_unavailable("cpu"):
        os.environ[backends.ENVIRONMENT_VARIABLE] = "triton,torch"

    def take() -> None:
        with tensor_float_32(precision):
            own()

    return take


def layers(batch: int, precision: Any) -> None:
    """Run every pass of every layer of `bench_scroll_conv2d` by every configuration that suits, within `absent_gpu`."""
    from bench_scroll_conv2d import WAYS, passes
    from convolutions import LAYERS, Work
    from steps import DTYPES

    from slimkern.continual.precision import tensor_float_32

    with tensor_float_32(precision):
        for layer in LAYERS:
            work = Work(layer, batch, DTYPES[precision], "cpu")
            for operation in passes(layer):
                calls = [(way, work.by_triton(operation, way)) for way in WAYS]
                for problem, call in filter(None, (own for _, own in calls)):
                    _run_all(problem, {"": call})


def fill(options: argparse.Namespace, share: int) -> None:
    """Compile a share of what is launched into Triton's cache, and print what came of it."""
    shares = options.processes
    with absent_gpu(lambda key: crc32(key.encode()) % shares == share, every=True) as launches:
        for precision in options.precisions:
            for batch in options.batches:
                for scroll in options.scrolls:
                    step(batch, precision, scroll)
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
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--share", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.cache = options.cache.resolve()
    if options.moved:
        moved(options.cache)
    elif options.share is None:
        os.environ["TRITON_CACHE_DIR"] = str(options.cache)
        command = [sys.executable, *sys.argv]
        shares = [subprocess.Popen([*command, "--share", str(share)]) for share in range(options.processes)]
        ends = [own.wait() for own in shares]
        if any(ends):
            raise SystemExit("the cache isn't whole")
        slim(options.cache)
    else:
        sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
        fill(options, options.share)


if __name__ == "__main__":
    main()
