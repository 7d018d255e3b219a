"""Packing the weights of ResNet-18 for all widths, and summing their gradients: each backend beside plain torch.

    python benchmarks/bench_pack_weights.py [--dtype bfloat16] [--layout channels_last] [--repetitions 20] [--cuda]

All backends take their turns in one process, so that a machine whose speed drifts slows all; the figures to read are
the medians of the ratios, repetition by repetition.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from slimkern.memory import keep_freed_memory
from slimkern.models import resnet18
from slimkern.ops import Part, native, pack_weights


def parts_of(weights: list[Tensor], scroll: int) -> list[Part]:
    """Four widths of every weight, the images' channels and the classes being whole axes."""
    parts = []
    for place, weight in enumerate(weights):
        rows, columns = weight.shape[:2]
        whole_in, whole_out = place == 0, weight.dim() == 2
        for share in (1, 2, 3, 4):
            parts.append(
                Part(
                    place,
                    rows if whole_out else rows * share // 4,
                    columns if whole_in else columns * share // 4,
                    0 if whole_out else rows * scroll // 4,
                    0 if whole_in else columns * scroll // 4,
                )
            )
    return parts


def seconds(call: Callable[[], object]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="bfloat16")
    parser.add_argument("--layout", choices=["contiguous", "channels_last"], default="channels_last")
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--cuda", action="store_true")
    arguments = parser.parse_args()
    device, dtype = ("cuda" if arguments.cuda else "cpu"), getattr(torch, arguments.dtype)

    keep_freed_memory()
    torch.manual_seed(0)
    format_ = torch.channels_last if arguments.layout == "channels_last" else torch.contiguous_format
    net = resnet18(100).to(device, memory_format=format_)
    weights = [weight for weight in net.parameters() if weight.dim() > 1]
    parts = parts_of(weights, scroll=3)
    backends = ["torch", *(["native"] if native.why_unavailable(device) is None else [])]
    times: dict[tuple[str, str], list[float]] = {}
    for repetition in range(3 + arguments.repetitions):
        for backend in backends:
            os.environ["SLIMKERN_BACKEND"] = backend
            packed: list[Tensor] = []
            forward = seconds(lambda packed=packed: packed.extend(pack_weights(weights, parts, dtype)))
            grads = [torch.ones_like(part) for part in packed]
            backward = seconds(lambda packed=packed, grads=grads: torch.autograd.grad(packed, weights, grads))
            if repetition >= 3:
                times.setdefault(("forward", backend), []).append(forward)
                times.setdefault(("backward", backend), []).append(backward)

    print(
        f"ResNet-18, {len(weights)} {arguments.layout} weights, {len(parts)} parts, float32 to {arguments.dtype}, "
        f"torch {torch.__version__}, {torch.cuda.get_device_name() if arguments.cuda else platform.machine()}, "
        f"{torch.get_num_threads()} threads"
    )
    for (way, backend), measured in times.items():
        ratios = [own / plain for own, plain in zip(measured, times[way, "torch"], strict=True)]
        print(
            f"{way:8} {backend:6} {statistics.median(measured) * 1e3:8.2f} ms   ratio to torch "
            f"{statistics.median(ratios):.3f}"
        )


if __name__ == "__main__":
    main()
