"""Compiles the launches of the kernels for GPUs that aren't here, and prints what came of each as a line of JSON.

    python -m tests.kernels.compiled CAPABILITY [gather] [stem] [reduction]

A process of its own: launches end where Triton would run them, and another Triton may come first on the path.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from slimkern.kernels import launch
from slimkern.kernels.configurations import FAMILIES
from slimkern.kernels.geometry import Geometry
from slimkern.kernels.scroll_conv2d import forward, input_gradient
from slimkern.kernels.scroll_conv2d_stem import forward_shared
from slimkern.kernels.scroll_conv2d_weight_gradient import weight_gradient
from slimkern.kernels.slab_table import SlabTable, nested

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
TYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32", torch.int32: "i32"}
DTYPES = {"half": torch.bfloat16, "tf32": torch.float32, "ieee": torch.float32}
OPTIONS = ("num_warps", "num_stages")
HOPPER = 90
SHARES = (1, 2, 3, 4)
INSTRUCTIONS = ("HGMMA", "STL", "LDGSTS", "UTMALDG")


def compiled(
    kernel: JITFunction, arguments: dict[str, Any], options: dict[str, int], capability: int
) -> dict[str, Any]:
    """What came of a launch: for Hopper, what it needs, and how often some instructions stand in its code."""
    constant = {parameter.name for parameter in kernel.params if parameter.is_constexpr}
    constant |= {name for name, value in arguments.items() if value is None}
    source = ASTSource(
        fn=kernel,
        signature={name: "constexpr" if name in constant else signature(value) for name, value in arguments.items()},
        constexprs={name: value for name, value in arguments.items() if name in constant},
        attrs={
            path: [["tt.divisibility", 16]]
            for place, (name, value) in enumerate(arguments.items())
            if name not in constant
            for path in aligned((place,), value)
        },
    )
    built = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    if capability != HOPPER:
        return {"kernel": kernel.__name__}
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(built.asm["cubin"])
        cubin.flush()
        usage, code = (
            subprocess.run([CUOBJDUMP, f"--dump-{what}", cubin.name], check=True, capture_output=True, text=True).stdout
            for what in ("resource-usage", "sass")
        )
    registers, stack = (int(number) for number in re.search(r"REG:(\d+) STACK:(\d+)", usage).groups())
    counts = {name: len(re.findall(rf"\b{name}\b", code)) for name in INSTRUCTIONS}
    return {"kernel": kernel.__name__, "registers": registers, "shared": built.metadata.shared, "stack": stack} | counts


def signature(value: Any) -> str | tuple:
    if isinstance(value, tuple):
        return tuple(signature(each) for each in value)
    return f"*{TYPES[value.dtype]}" if isinstance(value, Tensor) else "i32"


def aligned(path: tuple[int, ...], value: Any) -> Iterator[tuple[int, ...]]:
    """Paths to pointers and to multiples of 16, as Triton would mark them."""
    if isinstance(value, tuple):
        for place, each in enumerate(value):
            yield from aligned((*path, place), each)
    elif isinstance(value, Tensor) or value % 16 == 0:
        yield path


def problem(dtype: torch.dtype, stem: bool) -> tuple[list[Tensor], list[Tensor], Tensor, SlabTable, Geometry]:
    """Gradients, slabs and weight of a layer with four widths: 8x8 images of 512 channels, or of three shared ones."""
    outputs = [128 * share for share in SHARES]
    inputs = [3] if stem else outputs
    weight = torch.empty(512, inputs[-1], 3, 3, dtype=dtype).contiguous(memory_format=torch.channels_last)
    table = nested(weight, inputs, outputs, 128, 0 if stem else 128)
    grads, slabs = (
        [torch.empty(64, count, 8, 8, dtype=dtype, memory_format=torch.channels_last) for count in counts]
        for counts in (outputs, inputs)
    )
    return grads, slabs, weight, table, Geometry((3, 3), padding=(1, 1))


def calls(family: str, dtype: torch.dtype, own: Any, hopper: bool) -> Iterator[Callable[[], object]]:
    """The passes of a configuration. Forward pass and input gradient have one kernel: one will do on other GPUs."""
    grads, slabs, weight, table, geometry = problem(dtype, family == "stem" or getattr(own, "inputs", 8) < 8)
    if family == "stem":
        yield partial(forward_shared, slabs[0], weight, None, table, geometry, own)
    elif family == "reduction":
        yield partial(weight_gradient, grads, slabs, [weight], None, table, geometry, own)
    else:
        yield partial(forward, slabs, [weight], None, table, geometry, own)
        if hopper:
            yield partial(input_gradient, grads, [weight], table, geometry, (8, 8), own)


def main(capability: int, families: list[str]) -> None:
    label: dict[str, str] = {}

    def run(kernel: JITFunction, *arguments: Any, grid: Any, warmup: bool, **named: Any) -> None:
        options = {option: named.pop(option) for option in OPTIONS if option in named}
        bound = dict(zip(kernel.arg_names, arguments, strict=False)) | named
        result = compiled(kernel, {name: bound[name] for name in kernel.arg_names}, options, capability)
        print(json.dumps(label | result), flush=True)

    JITFunction.run = run
    launch.INTERPRETED = False
    for family, kind in product(families, DTYPES):
        torch.backends.cudnn.allow_tf32 = kind == "tf32"
        for own in FAMILIES[family][kind]:
            if own.boxes and capability < HOPPER:
                continue
            label = {"family": family, "kind": kind, "configuration": own.name}
            for call in calls(family, DTYPES[kind], own, capability == HOPPER):
                call()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:] or list(FAMILIES))
