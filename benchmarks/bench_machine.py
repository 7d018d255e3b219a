"""The ceilings of a machine: copies, matrix products, and what a launch costs, alone and within a CUDA graph.

    python benchmarks/bench_machine.py [--device cuda] [--save]

Copies count the bytes that are read and written. Products are of square matrices of random numbers, as zeros or ones
may run faster. A launch is that of a kernel which adds one to a few numbers.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
from rows import Row, copy_bandwidth, finish, in_turns, parser, percentiles, row

from slimkern.continual.precision import tensor_float_32

PRECISIONS = {"cpu": ("fp32", "bf16"), "cuda": ("bf16", "fp16", "tf32", "fp32")}
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "tf32": torch.float32, "fp32": torch.float32}
SIDE = {"cpu": 768, "cuda": 8192}
LAUNCHES = 200


def copies(options: argparse.Namespace) -> Iterator[Row]:
    megabytes = 1024 if options.device == "cuda" else 64
    bandwidth = copy_bandwidth(options.device, megabytes, options.repetitions)
    seconds = 2 * megabytes * 2**20 / bandwidth
    yield row("machine", {"MiB": megabytes}, "copy", [seconds], {"GB/s": bandwidth / 1e9}, options.device)


def products(options: argparse.Namespace) -> Iterator[Row]:
    side = SIDE[options.device]
    for precision in PRECISIONS[options.device]:
        with tensor_float_32(precision):
            one, other = (torch.randn(side, side, device=options.device, dtype=DTYPES[precision]) for _ in range(2))
            calls = {"product": lambda one=one, other=other: one @ other}
            inner = 5 if options.device == "cuda" else 1
            seconds = in_turns(calls, options.repetitions, inner=inner, device=options.device, budget=2.0)["product"]
        rate = 2.0 * side**3 / percentiles(seconds)["p50"] / 1e12
        yield row(
            "machine", {"side": side, "precision": precision}, "product", seconds, {"TFLOP/s": rate}, options.device
        )


def launches(options: argparse.Namespace) -> Iterator[Row]:
    """Kernels one after the other, launched by the host and by a graph."""
    few = torch.zeros(64, device=options.device)

    def many() -> None:
        for _ in range(LAUNCHES):
            few.add_(1)

    calls = {"launch, eager": many}
    if options.device == "cuda":
        from gpu_timing import captured

        calls["launch, in a graph"] = captured(many)
    for name, seconds in in_turns(calls, options.repetitions, device=options.device).items():
        of_one = [whole / LAUNCHES for whole in seconds]
        yield row("machine", {"launches": LAUNCHES}, name, of_one, device=options.device)


def main() -> None:
    options = parser(__doc__, 10).parse_args()
    for measure in (copies, products, launches):
        finish(measure(options), options)


if __name__ == "__main__":
    main()
