"""The kernels of a training step, what each took and how often it ran: of slimkern, and of what it is measured against.

    python benchmarks/bench_step_kernels.py [--batch 64] [--precision bf16] [--scroll 0] [--steps "plain, captured"]

On a GPU the kernels of captured steps, on a CPU the operators of eager ones. `--save` keeps the rows.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
from profiled import recording, spent
from rows import Row, finish, left_out, parser, row
from steps import BACKENDS, DTYPES, KINDS, Training, steps

from slimkern.continual.precision import tensor_float_32

DEFAULT = {
    "cuda": (
        "plain, captured",
        "passes, captured on streams",
        "slimkern torch, captured",
        "slimkern native, captured",
        "slimkern triton, captured",
    ),
    "cpu": ("plain, eager", "slimkern native, eager"),
}
LONGEST_NAME = 160


def kernels(name: str, step: Training, options: argparse.Namespace) -> Iterator[Row]:
    """A row a kernel, the longest first, and one of all of them; none without repetitions, for other profilers."""
    on_gpu = options.device == "cuda"
    for _ in range(4):
        step()
    if not options.repetitions:
        return
    with recording(options.device) as seen:
        for _ in range(options.repetitions):
            step()
        if on_gpu:
            torch.cuda.synchronize()
    took = spent(seen, options.device)
    case = {"step": name, "batch": options.batch, "precision": options.precision, "scroll": options.scroll}
    total, count = map(sum, zip(*took.values(), strict=True))
    took = dict(sorted(took.items(), key=lambda item: -item[1][0])) | {"all": (total, count)}
    for kernel, (seconds, times) in took.items():
        figures = {"launches": times / options.repetitions, "share": seconds / total}
        yield row("step_kernels", case, kernel[:LONGEST_NAME], [seconds / options.repetitions], figures, options.device)


def main() -> None:
    options = parser(__doc__, 5)
    options.add_argument("--batch", type=int, default=64)
    options.add_argument("--precision", choices=DTYPES, default="bf16")
    options.add_argument("--scroll", type=int, default=0)
    options.add_argument("--widths", type=int, default=4)
    options.add_argument("--channels", type=int, default=64, help="of the first stage")
    options.add_argument("--steps", nargs="+", help="their names, as benchmarks/bench_training_step.py prints them")
    options.add_argument("--tune", action="store_true", help="torch.backends.cudnn.benchmark")
    arguments = options.parse_args()
    arguments.only, arguments.skip, arguments.backends = KINDS, ["compiled"], BACKENDS
    torch.backends.cudnn.benchmark = arguments.tune
    with tensor_float_32(arguments.precision):
        known = dict(steps(arguments, arguments.batch, arguments.precision))
        for name in arguments.steps or DEFAULT[arguments.device]:
            if name not in known:
                left_out(name, f"no such step; there are {', '.join(known)}")
                continue
            try:
                step = known[name]()
                step.select()
                finish(kernels(name, step, arguments), arguments)
            except RuntimeError as error:
                left_out(name, str(error).partition("\n")[0])


if __name__ == "__main__":
    main()
