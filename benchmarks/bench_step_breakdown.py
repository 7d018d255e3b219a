"""Where the time of a slimkern step goes, by operator, beside the floor of each.

    python benchmarks/bench_step_breakdown.py [--batch 64] [--precision fp32] [--save]

A profiler adds up the time of each operator itself, over a few steps: that of kernels on a GPU, of threads on a CPU.
`slimkern bench report` draws it.
"""

from __future__ import annotations

import re
import statistics
from collections import Counter

import contenders
import torch
from bench_training_step import DTYPES, Training
from floors import Machine, step_floor
from rows import finish, in_turns, parser, row
from torch.profiler import ProfilerActivity, profile

from slimkern.continual.precision import tensor_float_32
from slimkern.memory import keep_freed_memory
from slimkern.widths import Widths

# The first that matches; names are those of operators on a CPU and of kernels on a GPU.
GROUPS = {
    "convolutions forward": r"^aten::(mkldnn|cudnn|_slow)\w*convolution$|implicit_gemm\w*fprop|fprop|conv\w*forward",
    "convolutions backward": r"convolution\w*backward|dgrad|wgrad|conv\w*gradient|conv\w*backward",
    "batch norm, ReLU, addition": r"batch_norm|relu|threshold|^aten::add_?$|vectorized_elementwise\w*add",
    "update of the weights": r"_fused_sgd|_foreach|clip|norm",
}
REST = "all else"


def group_of(name: str) -> str:
    """The kind of work that an operator or a kernel does."""
    return next((group for group, pattern in GROUPS.items() if re.search(pattern, name)), REST)


def main() -> None:
    options = parser(__doc__, 5)
    options.add_argument("--batch", type=int, default=64)
    options.add_argument("--precision", choices=DTYPES, default="bf16" if torch.cuda.is_available() else "fp32")
    options.add_argument("--widths", type=int, default=4)
    arguments = options.parse_args()
    device, widths = arguments.device, Widths.of(arguments.widths)
    keep_freed_memory()
    with tensor_float_32(arguments.precision):
        contender = contenders.slimkern(contenders.base_network().to(device), widths, 0)
        step = Training(contender, arguments.precision, arguments.batch, device, None).eager()
        seconds = in_turns({"step": step}, arguments.repetitions, device=device)["step"]
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
        with profile(activities=activities) as profiled:
            for _ in range(arguments.repetitions):
                step()
        dtype = DTYPES[arguments.precision]
        floors = step_floor(Machine.measured(dtype, device), arguments.batch, list(widths.fractions), dtype.itemsize)
    own: Counter[str] = Counter()
    for event in profiled.key_averages():
        # Kernels and operators both carry the time of kernels; take each once.
        if device == "cuda" and event.device_type == torch.autograd.DeviceType.CUDA:
            own[group_of(event.key)] += event.self_device_time_total
        elif device == "cpu":
            own[group_of(event.key)] += event.self_cpu_time_total
    total = sum(own.values())
    step_seconds = statistics.median(seconds)
    case = {"batch": arguments.batch, "precision": arguments.precision, "widths": arguments.widths}
    finish(
        [
            # The profiler slows a step down, so shares are taken from it and the time from steps without.
            row("step_breakdown", case, group, [step_seconds * own[group] / total],
                {"floor ms": 1e3 * floors[group] if group in floors else None, "share": own[group] / total}, device)
            for group in (*GROUPS, REST)
        ],
        arguments,
    )  # fmt: skip


if __name__ == "__main__":
    main()
