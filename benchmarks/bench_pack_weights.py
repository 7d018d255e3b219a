"""Packing the weights of ResNet-18 for all widths, and summing their gradients: each backend beside plain torch.

    python benchmarks/bench_pack_weights.py [--dtype bfloat16] [--layout channels_last] [--save]

All backends take their turns in one process, so that a machine whose speed drifts slows all; the figures to read are
the medians of the ratios, repetition by repetition.
"""

from __future__ import annotations

import os
from functools import partial

import torch
from rows import copy_bandwidth, finish, in_turns, operator_rows, parser
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


def main() -> None:
    options = parser(__doc__, 20)
    options.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="bfloat16")
    options.add_argument("--layout", choices=["contiguous", "channels_last"], default="channels_last")
    arguments = options.parse_args()
    device, dtype = arguments.device, getattr(torch, arguments.dtype)

    keep_freed_memory()
    torch.manual_seed(0)
    format_ = torch.channels_last if arguments.layout == "channels_last" else torch.contiguous_format
    net = resnet18(100).to(device, memory_format=format_)
    weights = [weight for weight in net.parameters() if weight.dim() > 1]
    parts = parts_of(weights, scroll=3)
    backends = ["torch", *(["native"] if native.why_unavailable(device) is None else [])]
    packed = pack_weights(weights, parts, dtype)
    grads = [torch.randn_like(part) for part in packed]

    def pack(backend: str) -> list[Tensor]:
        os.environ["SLIMKERN_BACKEND"] = backend
        return pack_weights(weights, parts, dtype)

    def add_up(backend: str, packed: list[Tensor]) -> None:
        os.environ["SLIMKERN_BACKEND"] = backend
        torch.autograd.grad(packed, weights, grads, retain_graph=True)

    moved = sum(weight.nbytes for weight in weights) + sum(part.nbytes for part in packed)
    bandwidth, rows = copy_bandwidth(device), []
    made = {backend: pack(backend) for backend in backends}
    ways = {
        "forward": {backend: partial(pack, backend) for backend in backends},
        "backward": {backend: partial(add_up, backend, own) for backend, own in made.items()},
    }
    for way, calls in ways.items():
        times = in_turns(
            calls, arguments.repetitions, inner=10 if device == "cuda" else 1, device=device, budget=arguments.budget
        )
        case = {"way": way, "dtype": arguments.dtype, "layout": arguments.layout, "widths": 4}
        rows += operator_rows("pack_weights", case, times, ["torch"], moved, bandwidth, device)
    finish(rows, arguments)


if __name__ == "__main__":
    main()
