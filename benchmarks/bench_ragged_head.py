"""The heads of four widths of ResNet-18, forward and backward: each backend beside plain torch.

    python benchmarks/bench_ragged_head.py [--batch 64] [--classes 100] [--dtype float32] [--repetitions 50] [--cuda]

All backends take their turns in one process, so that a machine whose speed drifts slows all; the figures to read are
the medians of the ratios, repetition by repetition.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time

import torch
from torch import Tensor

from slimkern.ops import native, ragged_head

FEATURES, IMAGE = 512, (4, 4)


def seconds(slabs: list[Tensor], weight: Tensor, bias: Tensor, labels: Tensor) -> float:
    if slabs[0].is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    losses, _ = ragged_head(slabs, weight, bias, labels, in_offset=FEATURES // 4)
    torch.autograd.grad(losses.sum(), [*slabs, weight, bias])
    if slabs[0].is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--repetitions", type=int, default=50)
    parser.add_argument("--cuda", action="store_true")
    arguments = parser.parse_args()
    device, dtype = ("cuda" if arguments.cuda else "cpu"), getattr(torch, arguments.dtype)

    torch.manual_seed(0)
    slabs = [
        torch.randn(arguments.batch, FEATURES * share // 4, *IMAGE, device=device)
        .to(dtype, memory_format=torch.channels_last)
        .requires_grad_()
        for share in (1, 2, 3, 4)
    ]
    weight = (torch.randn(arguments.classes, FEATURES, device=device) * 0.04).requires_grad_()
    bias = torch.zeros(arguments.classes, device=device, requires_grad=True)
    labels = torch.randint(0, arguments.classes, (arguments.batch,), device=device)
    backends = ["torch", *(["native"] if native.why_unavailable(device) is None else [])]
    times: dict[str, list[float]] = {backend: [] for backend in backends}
    for repetition in range(3 + arguments.repetitions):
        for backend in backends:
            os.environ["SLIMKERN_BACKEND"] = backend
            measured = seconds(slabs, weight, bias, labels)
            if repetition >= 3:
                times[backend].append(measured)

    print(
        f"batch {arguments.batch}, {arguments.classes} classes, {arguments.dtype}, torch {torch.__version__}, "
        f"{torch.cuda.get_device_name() if arguments.cuda else platform.machine()}, {torch.get_num_threads()} threads"
    )
    for backend, measured in times.items():
        ratios = [own / plain for own, plain in zip(measured, times["torch"], strict=True)]
        print(
            f"{backend:6} {statistics.median(measured) * 1e3:8.3f} ms forward and backward   ratio to torch "
            f"{statistics.median(ratios):.3f}"
        )


if __name__ == "__main__":
    main()
