"""Compiles the launches of the kernels for GPUs that aren't here, and prints what came of each as a line of JSON.

    python -m tests.kernels.compiled CAPABILITY [gather] [stem] [reduction]

A process of its own: launches stop where Triton would run them, and another Triton may come first on the path.
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
from triton.compiler import CompiledKernel
from triton.runtime.jit import JITFunction

from slimkern.kernels.configurations import FAMILIES
from slimkern.kernels.geometry import Geometry
from slimkern.kernels.scroll_conv2d import forward, input_gradient
from slimkern.kernels.scroll_conv2d_stem import forward_shared
from slimkern.kernels.scroll_conv2d_weight_gradient import weight_gradient
from slimkern.kernels.slab_table import SlabTable, nested

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
DTYPES = {"half": torch.bfloat16, "tf32": torch.float32, "ieee": torch.float32}
HOPPER = 90
SHARES = (1, 2, 3, 4)
INSTRUCTIONS = ("HGMMA", "STL", "LDGSTS", "UTMALDG")


class Elsewhere:
    """Stands for the driver of a GPU that isn't here."""

    def __init__(self, capability: int) -> None:
        self._target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def needed(built: CompiledKernel) -> dict[str, int]:
    """Registers, memory, and how often some instructions stand in the code."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(built.asm["cubin"])
        cubin.flush()
        usage, code = (
            subprocess.run([CUOBJDUMP, f"--dump-{what}", cubin.name], check=True, capture_output=True, text=True).stdout
            for what in ("resource-usage", "sass")
        )
    registers, stack = (int(number) for number in re.search(r"REG:(\d+) STACK:(\d+)", usage).groups())
    counts = {name: len(re.findall(rf"\b{name}\b", code)) for name in INSTRUCTIONS}
    return {"registers": registers, "shared": built.metadata.shared, "stack": stack} | counts


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
    launch = JITFunction.run

    def compile_only(kernel: JITFunction, *arguments: Any, warmup: bool, **named: Any) -> None:
        built = launch(kernel, *arguments, warmup=True, **named)
        # Other GPUs need other resources, and disassembly takes its time.
        found = needed(built) if capability == HOPPER else {}
        print(json.dumps(label | {"kernel": kernel.__name__} | found), flush=True)

    JITFunction.run = compile_only
    triton.runtime.driver.set_active(Elsewhere(capability))
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
