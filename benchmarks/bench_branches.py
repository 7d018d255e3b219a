"""The forward pass of parallel branches in evaluation mode: in one grouped pass, and by a loop over them.

    python benchmarks/bench_branches.py [--batch 32] [--branches 6] [--channels 16] [--save]

The loop is `[branch(maps) for branch in branches]` with ordinary torch modules, once channels-last and once as PyTorch
lays tensors out by default. All take their turns in one process; the figures to read are the medians of the ratios,
repetition by repetition.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from rows import copy_bandwidth, finish, in_turns, operator_rows, parser
from torch import Tensor

from slimkern.continual.branches.grouped import grouped
from slimkern.memory import keep_freed_memory
from slimkern.models.branching_resnet import ExpandLayer

SIDE = 16


@torch.no_grad()
def main() -> None:
    options = parser(__doc__, 30)
    options.add_argument("--batch", type=int, default=32, help="images a batch")
    options.add_argument("--branches", type=int, default=6)
    options.add_argument("--channels", type=int, default=16, help="of the base layer's first stage")
    arguments = options.parse_args()
    device = arguments.device

    keep_freed_memory()  # as the trainer does on a CPU; all gain by it
    torch.manual_seed(0)
    as_made = [ExpandLayer(4 * arguments.channels).to(device).eval() for _ in range(arguments.branches)]
    for module in (module for branch in as_made for module in branch.modules()):
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    branches = [copy.deepcopy(branch).to(memory_format=torch.channels_last) for branch in as_made]
    plain = torch.randn(arguments.batch, 4 * arguments.channels, SIDE, SIDE, device=device)
    maps = plain.contiguous(memory_format=torch.channels_last)
    calls: dict[str, Callable[[], list[Tensor]]] = {
        "grouped": lambda: grouped(branches, maps),
        "loop": lambda: [branch(maps) for branch in branches],
        "loop, NCHW": lambda: [branch(plain) for branch in as_made],
    }
    truth = torch.cat(calls["loop"](), 1)
    for name, call in calls.items():
        error = (torch.cat(call(), 1) - truth).abs().max().item()
        assert error < 1e-5 * max(1.0, truth.abs().max().item()), f"{name} is off by {error}"
    times = in_turns(calls, arguments.repetitions, device=device)
    case = {"batch": arguments.batch, "branches": arguments.branches, "channels": arguments.channels}
    weights = sum(own.numel() for branch in branches for own in branch.parameters())
    finish(
        operator_rows("branches", case, times, ["loop", "loop, NCHW"], 4 * weights, copy_bandwidth(device), device),
        arguments,
    )


if __name__ == "__main__":
    main()
