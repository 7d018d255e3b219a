"""Batch norm and ReLU of all sub-networks, forward and backward: the compiled kernels beside PyTorch, slab by slab.

    python benchmarks/bench_switchable_batch_norm.py [--batch 64] [--widths 4] [--dtype float32] [--save]

The shapes are those of ResNet-18 on 32x32 images. Both take turns in one process, so that a machine whose speed drifts
slows both; the figures to read are the medians of the ratios: to `F.relu` as it comes, and to `F.relu` in place, the
best that PyTorch can do.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from rows import Row, Times, copy_bandwidth, finish, in_turns, left_out, operator_rows, parser
from torch import Tensor

from slimkern.memory import keep_freed_memory
from slimkern.ops import native, switchable_batch_norm

STAGES = ((64, 32), (128, 16), (256, 8), (512, 4))


class Stage:
    """The slabs of all widths at one stage, their parameters, and the gradients that come back."""

    def __init__(self, channels: int, side: int, batch: int, widths: int, dtype: torch.dtype, device: str) -> None:
        self.sizes = [channels * (place + 1) // widths for place in range(widths)]
        self.offsets = [sum(self.sizes[:place]) for place in range(widths)]
        shapes = [(batch, size, side, side) for size in self.sizes]
        self.slabs = [self._packed(shape, dtype, device).requires_grad_() for shape in shapes]
        self.grads = [self._packed(shape, dtype, device) for shape in shapes]
        self.weight = torch.ones(sum(self.sizes), device=device, requires_grad=True)
        self.bias = torch.zeros(sum(self.sizes), device=device, requires_grad=True)
        self.parts = [
            [vector.detach()[offset : offset + size].clone().requires_grad_() for vector in (self.weight, self.bias)]
            for offset, size in zip(self.offsets, self.sizes, strict=True)
        ]

    @staticmethod
    def _packed(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Tensor:
        return torch.randn(shape, dtype=dtype, device=device).contiguous(memory_format=torch.channels_last)

    def by_torch(self, inplace: bool = False) -> None:
        results = [
            F.relu(F.batch_norm(slab, None, None, weight, bias, True), inplace)
            for slab, (weight, bias) in zip(self.slabs, self.parts, strict=True)
        ]
        torch.autograd.grad(results, [*self.slabs, *(vector for pair in self.parts for vector in pair)], self.grads)

    def by_slimkern(self) -> None:
        results, *_ = switchable_batch_norm(self.slabs, self.weight, self.bias, self.offsets, relu=True)
        torch.autograd.grad(results, [*self.slabs, self.weight, self.bias], self.grads)

    def bytes(self) -> int:
        """Forward: statistics, then reading and writing; backward: sums over two tensors, then those and the result."""
        return (3 + 5) * sum(slab.nbytes for slab in self.slabs)


def main() -> None:
    options = parser(__doc__, 20)
    options.add_argument("--batch", type=int, default=64, help="images a batch")
    options.add_argument("--widths", type=int, default=4, help="number of even widths")
    options.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    arguments = options.parse_args()
    device = arguments.device
    if reason := native.why_unavailable(device):
        return left_out("batch norm", f"there are no compiled kernels to measure: {reason}")

    keep_freed_memory()  # as the trainer does on a CPU; both gain by it
    os.environ["SLIMKERN_BACKEND"] = "native"
    return finish(measured(arguments), arguments)


def measured(options: argparse.Namespace) -> Iterator[Row]:
    """The rows of each stage as it was timed, then those of all of them."""
    device = options.device
    bandwidth, totals, moved = copy_bandwidth(device), {}, 0

    def described(stage: str, times: Times, moved: int) -> list[Row]:
        case = {"stage": stage, "batch": options.batch, "dtype": options.dtype, "widths": options.widths}
        to = ("torch", "torch, in place")
        return operator_rows("switchable_batch_norm", case, times, to, moved, bandwidth, device)

    for channels, side in STAGES:
        stage = Stage(channels, side, options.batch, options.widths, getattr(torch, options.dtype), device)
        calls = {
            "native": stage.by_slimkern,
            "torch": stage.by_torch,
            "torch, in place": partial(stage.by_torch, inplace=True),
        }
        times = in_turns(
            calls, options.repetitions, inner=10 if device == "cuda" else 1, device=device, budget=options.budget
        )
        for name, seconds in times.items():
            before = totals.get(name, [0.0] * len(seconds))
            # The budget may have had room for fewer rounds of one stage than of another.
            totals[name] = [sum(both) for both in zip(before, seconds, strict=False)]
        moved += stage.bytes()
        yield from described(f"{channels} channels {side}x{side}", times, stage.bytes())
    yield from described("all stages", totals, moved)


if __name__ == "__main__":
    main()
