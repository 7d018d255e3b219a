"""Where the time of a slimkern step goes, by operator, beside the floor of each.

    python benchmarks/bench_step_breakdown.py [--batch 64] [--precision fp32] [--backend native] [--scroll 0] [--save]

A profiler adds up the time of each operator itself, over a few steps: that of the kernels of a captured step on a GPU,
of threads on a CPU. Both gradients of a convolution and its forward pass may be kernels of one name, so they are one
kind of work. `slimkern bench report` draws it.
"""

from __future__ import annotations

import re
import statistics
from collections import Counter

import contenders
import torch
from floors import Machine, step_floor
from profiled import recording, spent
from rows import finish, in_turns, parser, row
from steps import BACKENDS, DTYPES, Training

from slimkern.continual.precision import tensor_float_32
from slimkern.memory import keep_freed_memory
from slimkern.widths import Widths

# The first that matches; names are those of operators on a CPU and of kernels on a GPU: ours, PyTorch's, cuDNN's.
GROUPS = {
    "batch norm, ReLU, addition": r"batch_norm|bn_[fb]w|relu|threshold|clamp|^aten::add_?$|Functor_add\b"
    r"|\b(normalise|moments|differentiate|norms|slopes)_kernel|(?<!native::)\breduce_kernel",
    "convolutions": r"convol|cudnn|xmma|fprop|dgrad|wgrad|implicit_gemm|^gather"
    r"|^(sum_pixels|sum_boxes|add_partial_sums)|pack_weights|\b(pack|sum)_kernel",
    "update of the weights": r"fused_sgd|FusedSgd|_foreach|multi_tensor_apply|vector_norm|lpnorm",
    "heads and losses": r"ragged_head|\b(heads|mean|parameters)_kernel|softmax|SoftMax|nll_loss|addmm|gemm",
}
REST = "all else"


def group_of(name: str) -> str:
    """The kind of work that an operator or a kernel does."""
    return next((group for group, pattern in GROUPS.items() if re.search(pattern, name)), REST)


def main() -> None:
    options = parser(__doc__, 5)
    options.add_argument("--batch", type=int, default=64)
    options.add_argument("--precision", choices=DTYPES, help="by default fp32, on a GPU bf16")
    options.add_argument("--backend", choices=BACKENDS, help="of the operators; by default native, on a GPU triton")
    options.add_argument("--scroll", type=int, default=0, help="blocks that the ranking is scrolled by")
    options.add_argument("--widths", type=int, default=4)
    options.add_argument("--channels", type=int, default=64, help="of the first stage")
    arguments = options.parse_args()
    device, widths = arguments.device, Widths.of(arguments.widths)
    on_gpu = device == "cuda"
    precision = arguments.precision or ("bf16" if on_gpu else "fp32")
    backend = arguments.backend or ("triton" if on_gpu else "native")
    keep_freed_memory()
    with tensor_float_32(precision):
        contender = contenders.slimkern(
            contenders.base_network(arguments.channels).to(device), widths, arguments.scroll
        )
        step = Training(contender, "captured" if on_gpu else "eager", precision, arguments.batch, device, backend)
        step.select()
        seconds = in_turns(
            {"step": step}, arguments.repetitions, 3 if on_gpu else 1, device=device, budget=arguments.budget / 2
        )["step"]
        with recording(device) as profiled:
            for _ in seconds:
                step()
            if on_gpu:
                torch.cuda.synchronize()
        dtype = DTYPES[precision]
        machine = Machine.measured(dtype, device, precision == "tf32")
    floors = step_floor(machine, arguments.batch, list(widths.fractions), dtype.itemsize, arguments.channels)
    floors["convolutions"] = floors.pop("convolutions forward") + floors.pop("convolutions backward")
    own: Counter[str] = Counter()
    for name, (seconds_of_it, _) in spent(profiled, device).items():
        own[group_of(name)] += seconds_of_it
    total = sum(own.values())
    step_seconds = statistics.median(seconds)
    case = {
        "batch": arguments.batch, "precision": precision, "widths": arguments.widths, "scroll": arguments.scroll,
        "backend": backend,
    }  # fmt: skip
    if arguments.channels != 64:
        case["channels"] = arguments.channels
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
