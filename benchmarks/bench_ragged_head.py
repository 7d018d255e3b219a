"""The heads of four widths of ResNet-18, forward and backward: each backend beside plain torch.

    python benchmarks/bench_ragged_head.py [--batch 64] [--classes 100] [--dtype float32] [--save]

All backends take their turns in one process, so that a machine whose speed drifts slows all; the figures to read are
the medians of the ratios, repetition by repetition.
"""

from __future__ import annotations

import os
from functools import partial

import torch
from rows import copy_bandwidth, finish, in_turns, operator_rows, parser

from slimkern.ops import native, ragged_head

FEATURES, IMAGE = 512, (4, 4)


def main() -> None:
    options = parser(__doc__, 50)
    options.add_argument("--batch", type=int, default=64)
    options.add_argument("--classes", type=int, default=100)
    options.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    arguments = options.parse_args()
    device, dtype = arguments.device, getattr(torch, arguments.dtype)

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

    def call(backend: str) -> None:
        os.environ["SLIMKERN_BACKEND"] = backend
        losses, _ = ragged_head(slabs, weight, bias, labels, in_offset=FEATURES // 4)
        torch.autograd.grad(losses.sum(), [*slabs, weight, bias])

    calls = {backend: partial(call, backend) for backend in backends}
    times = in_turns(
        calls, arguments.repetitions, inner=10 if device == "cuda" else 1, device=device, budget=arguments.budget
    )
    case = {"batch": arguments.batch, "classes": arguments.classes, "dtype": arguments.dtype, "widths": 4}
    # Features are read and their gradients written; so are the weights.
    moved = 2 * (sum(slab.nbytes for slab in slabs) + weight.nbytes)
    finish(operator_rows("ragged_head", case, times, ["torch"], moved, copy_bandwidth(device), device), arguments)


if __name__ == "__main__":
    main()
