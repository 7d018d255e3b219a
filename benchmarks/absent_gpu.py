"""A GPU that isn't there: Triton's launches on tensors of the CPU go as far as the driver's door, and no further.

Until that door all is as on the GPU: the choice of a configuration, the plan and its grid, the specialisation of the
arguments and, if wanted, the compilation. What was launched is noted, nothing runs, and results hold anything.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

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
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", dumped(cubin, "resource-usage")).groups()
    return Resources(int(registers), int(stack), shared)


def dumped(cubin: bytes, what: str) -> str:
    """What cuobjdump tells of compiled code: its resource-usage, or its sass."""
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([tool, f"--dump-{what}", file.name], check=True, capture_output=True, text=True).stdout


class Door:
    """Stands for the driver of a GPU of a compute capability, such as 90: answers what is asked before a launch."""

    def __init__(self, capability: int = 10 * GPU.major + GPU.minor) -> None:
        self._capability = capability

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self._capability, WARP)

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
                run_all(problem, calls)
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


def run_all(problem: Any, calls: Any) -> None:
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
