"""Compiles the launches of the kernels for GPUs that aren't here, and prints what came of each as a line of JSON.

    python -m tests.kernels.compiled CAPABILITY [gather] [stem] [reduction]

A process of its own: launches stop where Triton would run them, and another Triton may come first on the path.
"""

from __future__ import annotations

import json
import re
import sys
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.compiler import CompiledKernel
from triton.runtime.jit import JITFunction

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import absent_gpu

from slimkern.kernels.configurations import FAMILIES
from slimkern.kernels.geometry import Geometry
from slimkern.kernels.launch import Unsuitable
from slimkern.kernels.scroll_conv2d import forward, input_gradient
from slimkern.kernels.scroll_conv2d_stem import forward_shared
from slimkern.kernels.scroll_conv2d_weight_gradient import weight_gradient
from slimkern.kernels.slab_table import nested, packed, private

DTYPES = {"half": torch.bfloat16, "tf32": torch.float32, "ieee": torch.float32}
HOPPER = 90
SHARES = (1, 2, 3, 4)
INSTRUCTIONS = {name: rf"\b{name}\b" for name in ("HGMMA", "STL", "LDGSTS", "UTMALDG")}
INSTRUCTIONS["atomic sums"] = r"\b(?:RED|ATOM)[GS]?\.\S*ADD\b"
THREE = Geometry((3, 3), padding=(1, 1))


def needed(built: CompiledKernel) -> dict[str, int]:
    """Registers, memory, and how often some instructions stand in the code."""
    code = absent_gpu.dumped(built.asm["cubin"], "sass")
    counts = {name: len(re.findall(pattern, code)) for name, pattern in INSTRUCTIONS.items()}
    return absent_gpu.resources(built)._asdict() | counts


class Variant(NamedTuple):
    """What a launch has that makes other code of a kernel; the first of a family's is what its budgets speak of."""

    name: str
    operation: str
    geometry: Geometry = THREE
    channels: int = 512
    read: str = "in place"
    layout: torch.memory_format = torch.channels_last
    bias: bool = False
    moments: bool = False
    dtype: torch.dtype | None = None


STRIDED, ONE = Geometry((3, 3), (2, 2), (1, 1)), Geometry((1, 1))
DILATED = Geometry((3, 3), padding=(2, 2), dilation=(2, 2))
FORWARD, GRADIENT, REDUCTION, STEM = "forward", "input gradient", "weight gradient", "stem"
PLAIN = {
    "gather": (Variant(FORWARD, FORWARD, moments=True), Variant(GRADIENT, GRADIENT)),
    "stem": (Variant(STEM, STEM, moments=True),),
    "reduction": (Variant(REDUCTION, REDUCTION),),
}
VARIANTS = {
    "gather": (
        Variant("biased, with moments, strided", FORWARD, STRIDED, bias=True, moments=True),
        Variant("gradient of a stride", GRADIENT, STRIDED),
        Variant("packed, one tap, depth left over", FORWARD, ONE, 160, "packed"),
        Variant("gradient by private weights, dilated", GRADIENT, DILATED, read="private"),
        Variant("contiguous weight", FORWARD, layout=torch.contiguous_format),
        Variant("gradient in float16", GRADIENT, dtype=torch.float16),
    ),
    "stem": (Variant("biased, with moments, strided", STEM, STRIDED, bias=True, moments=True),),
    "reduction": (
        Variant("biased, strided", REDUCTION, STRIDED, bias=True),
        Variant("contiguous weight, one tap", REDUCTION, ONE, layout=torch.contiguous_format),
        Variant("private weights in float16, dilated", REDUCTION, DILATED, read="private", dtype=torch.float16),
    ),
}
"""Every configuration is compiled with some of them, every one of them with some configurations of each kind."""


def chosen(family: str, place: int, own: Any, hopper: bool) -> list[Variant]:
    """The variants that a configuration, at this place of its list, is compiled with."""
    plain, others = PLAIN[family], VARIANTS[family]
    count = 2 if family == "gather" and (hopper or own.boxes) else 1
    rotated = [others[(count * place + more) % len(others)] for more in range(count)]
    return [*(plain if hopper else plain[:1]), *rotated]


def compile_variant(variant: Variant, dtype: torch.dtype, own: Any) -> None:
    """Launch a layer with four widths, of 8x8 results: of many channels, or of three shared ones."""
    few = variant.operation == STEM or getattr(own, "inputs", 8) < 8
    geometry, side = variant.geometry, 8 * variant.geometry.stride[0]
    outputs = [variant.channels // 4 * share for share in SHARES]
    inputs = [3] if few else outputs

    def empty(*shape: int, layout: torch.memory_format = torch.channels_last) -> Tensor:
        return torch.empty(*shape, dtype=dtype, memory_format=layout)

    slabs = [empty(64, count, side, side) for count in inputs]
    grads = [empty(64, count, 8, 8) for count in outputs]
    seen = inputs * (4 // len(inputs))
    parts = [empty(*size, *geometry.kernel, layout=variant.layout) for size in zip(outputs, seen, strict=True)]
    weights = parts[-1:]
    if variant.read == "private":
        weights, table = parts, private(parts, inputs)
    elif variant.read == "packed":
        weights = [torch.empty(sum(part.numel() for part in parts), dtype=dtype)]
        table = packed(parts, inputs, outputs[-1])
    else:
        table = nested(weights[0], inputs, outputs, outputs[0], 0 if few else outputs[0])
    biases = [torch.empty(len(weight), dtype=dtype) for weight in weights] if variant.bias else None
    if variant.operation == STEM:
        forward_shared(slabs[0], weights[0], biases and biases[0], table, geometry, own, variant.moments)
    elif variant.operation == REDUCTION:
        weight_gradient(grads, slabs, weights, biases, table, geometry, own)
    elif variant.operation == FORWARD:
        forward(slabs, weights, biases, table, geometry, own, variant.moments)
    else:
        input_gradient(grads, weights, table, geometry, (side, side), own)


def main(capability: int, families: list[str]) -> None:
    label: dict[str, str] = {}
    launch = JITFunction.run

    def compile_only(kernel: JITFunction, *arguments: Any, warmup: bool, **named: Any) -> None:
        built = launch(kernel, *arguments, warmup=True, **named)
        # Other GPUs need other resources, and disassembly takes its time.
        found = needed(built) if capability == HOPPER else {}
        print(json.dumps(label | {"kernel": kernel.__name__, "triton": triton.__version__} | found), flush=True)

    JITFunction.run = compile_only
    triton.runtime.driver.set_active(absent_gpu.Door(capability))
    for family, kind in product(families, DTYPES):
        torch.backends.cudnn.allow_tf32 = kind == "tf32"
        for place, own in enumerate(FAMILIES[family][kind]):
            if own.boxes and capability < HOPPER:
                continue
            for variant in chosen(family, place, own, capability == HOPPER):
                label = {"family": family, "kind": kind, "configuration": own.name, "variant": variant.name}
                dtype = DTYPES[kind] if DTYPES[kind].itemsize > 2 else variant.dtype or DTYPES[kind]
                with suppress(Unsuitable):
                    compile_variant(variant, dtype, own)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:] or list(FAMILIES))
