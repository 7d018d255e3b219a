"""Batch norm and ReLU of all sub-networks, forward and backward: the compiled kernels beside PyTorch, slab by slab.

    python benchmarks/bench_switchable_batch_norm.py [--batch 64] [--widths 4] [--dtype float32] [--repetitions 20]

The shapes are those of ResNet-18 on 32x32 images. Both take turns in one process, so that a machine whose speed drifts
slows both; the figures to read are the medians of the ratios: to `F.relu` as it comes, and to `F.relu` in place, the
best that PyTorch can do.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from slimkern.memory import keep_freed_memory
from slimkern.ops import native, switchable_batch_norm

STAGES = ((64, 32), (128, 16), (256, 8), (512, 4))


class Stage:
    """The slabs of all widths at one stage, their parameters, and the gradients that come back."""

    def __init__(self, channels: int, side: int, batch: int, widths: int, dtype: torch.dtype) -> None:
        self.sizes = [channels * (place + 1) // widths for place in range(widths)]
        self.offsets = [sum(self.sizes[:place]) for place in range(widths)]
        shapes = [(batch, size, side, side) for size in self.sizes]
        self.slabs = [self._packed(shape, dtype).requires_grad_() for shape in shapes]
        self.grads = [self._packed(shape, dtype) for shape in shapes]
        self.weight = torch.ones(sum(self.sizes), requires_grad=True)
        self.bias = torch.zeros(sum(self.sizes), requires_grad=True)
        self.parts = [
            [vector.detach()[offset : offset + size].clone().requires_grad_() for vector in (self.weight, self.bias)]
            for offset, size in zip(self.offsets, self.sizes, strict=True)
        ]

    @staticmethod
    def _packed(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.randn(shape, dtype=dtype).contiguous(memory_format=torch.channels_last)

    def by_torch(self, inplace: bool = False) -> None:
        results = [
            F.relu(F.batch_norm(slab, None, None, weight, bias, True), inplace)
            for slab, (weight, bias) in zip(self.slabs, self.parts, strict=True)
        ]
        torch.autograd.grad(results, [*self.slabs, *(vector for pair in self.parts for vector in pair)], self.grads)

    def by_slimkern(self) -> None:
        results, *_ = switchable_batch_norm(self.slabs, self.weight, self.bias, self.offsets, relu=True)
        torch.autograd.grad(results, [*self.slabs, self.weight, self.bias], self.grads)


def seconds(call: Callable[[], None]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64, help="images a batch")
    parser.add_argument("--widths", type=int, default=4, help="number of even widths")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--repetitions", type=int, default=20, help="timed calls of each")
    arguments = parser.parse_args()
    if reason := native.why_unavailable("cpu"):
        raise SystemExit(f"there are no compiled kernels to measure: {reason}")

    keep_freed_memory()  # as the trainer does on a CPU; both gain by it
    os.environ["SLIMKERN_BACKEND"] = "native"
    print(
        f"batch norm + ReLU, forward + backward, batch {arguments.batch}, {arguments.dtype}, "
        f"widths={arguments.widths}, torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}"
    )
    totals: dict[str, float] = dict.fromkeys(("slimkern", "torch", "torch in place"), 0.0)
    for channels, side in STAGES:
        stage = Stage(channels, side, arguments.batch, arguments.widths, getattr(torch, arguments.dtype))
        calls = dict(zip(totals, (stage.by_slimkern, stage.by_torch, partial(stage.by_torch, True)), strict=True))
        times: dict[str, list[float]] = {name: [] for name in calls}
        for repetition in range(arguments.repetitions + 2):
            for name, call in calls.items():
                taken = seconds(call)
                if repetition >= 2:
                    times[name].append(taken)
        medians = {name: statistics.median(measured) for name, measured in times.items()}
        totals = {name: totals[name] + medians[name] for name in totals}
        print(f"{channels:4} channels {side:2}x{side:<2}  slimkern {medians['slimkern'] * 1e3:6.2f} ms", end="")
        for name in list(totals)[1:]:
            ratios = [own / other for own, other in zip(times["slimkern"], times[name], strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            print(f"  {name} {medians[name] * 1e3:6.2f} ms, ratio {middle:.3f} ({low:.3f} to {high:.3f})", end="")
        print()
    for name in list(totals)[1:]:
        print(f"all four stages: {totals['slimkern'] / totals[name]:.3f} of {name}")


if __name__ == "__main__":
    main()
