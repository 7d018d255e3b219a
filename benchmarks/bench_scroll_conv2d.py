"""Every distinct layer of ResNet-18 on 32x32 images, forward and both gradients, all sub-networks: who is the fastest.

    python benchmarks/bench_scroll_conv2d.py [--batch 64] [--dtype bfloat16] [--device cuda] [--save]
    python benchmarks/bench_scroll_conv2d.py --experiment layers    # the contenders on each layer
    python benchmarks/bench_scroll_conv2d.py --experiment variants  # every configuration of the Triton kernels
    python benchmarks/bench_scroll_conv2d.py --experiment splits    # weight gradients, cut into more or fewer items
    python benchmarks/bench_scroll_conv2d.py --ship                 # also write slimkern/kernels/choices.json

The contenders are plain PyTorch at full width; PyTorch slab by slab on packed slabs and weights, on one stream, on
four, and either in a CUDA graph; and one Triton launch that reads packed weights, or weights in place. PyTorch is
flattered: neither packing weights nor adding up their gradients is counted, whereas Triton's forward pass packs what
it and the input gradient read packed. On a GPU, events are read and the cache is flushed before each call; whatever
isn't said to be eager runs in a CUDA graph. `floor` is the time that the arithmetic takes at the speed of a matrix
product, or reading and writing everything once takes at that of a copy, whichever is longer.

Contenders are timed in turns, by `rows`, not by pytest-benchmark: that times all rounds of one before the next one's,
so that a clock which drifts favours somebody, has no ratios round by round, and knows nothing of CUDA events.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from convolutions import LAYERS, Layer, Work
from floors import Machine
from gpu_timing import Call, captured, in_sequence, on_streams, timed
from rows import Row, Times, finish, parser, percentiles, ratios, row

from slimkern.kernels import why_unavailable
from slimkern.kernels.configurations import STREAMS, TORCH

BENCHMARK = "scroll_conv2d"
PASSES = ("forward", "input gradient", "weight gradient")
WAYS = ("packed", "in place")
WAVES = (1, 2, 3, 4, 6, 8, 12)
ONE_STREAM = "torch, one stream, captured"
FOUR_STREAMS = "torch, four streams, captured"


def contenders(work: Work, operation: str, device: str, tuner: Any) -> dict[str, Call]:
    """Calls by name, each of which computes the pass for all sub-networks (but for the plain one)."""
    slabs = work.by_torch(operation)
    if device != "cuda":
        return {"plain, full width": work.plain(operation), "torch, slab by slab": in_sequence(slabs)}
    calls = {
        "plain, full width": captured(work.plain(operation)),
        "torch, one stream, eager": in_sequence(slabs),
        ONE_STREAM: captured(in_sequence(slabs)),
        "torch, four streams, eager": on_streams(slabs),
        FOUR_STREAMS: captured(on_streams(slabs)),
    }
    for way in WAYS:
        if tuner is not None and (own := work.by_triton(operation, way)):
            problem, launch = own
            calls[f"triton, {way}"] = captured(partial(tuner.run, problem, {way: launch}))
    return calls


def passes(layer: Layer) -> Sequence[str]:
    """Nobody asks for the gradient of images."""
    return [own for own in PASSES if layer.inputs > 3 or own != "input gradient"]


def layers(options: argparse.Namespace, tuner: Any) -> Iterator[Row]:
    """All contenders on each layer (experiments E1 and E3), and what they take for all layers of the network."""
    dtype, device = getattr(torch, options.dtype), options.device
    machine = Machine.measured(dtype, device)
    for batch in options.batch:
        totals: dict[str, list[float]] = {}
        floors = 0.0
        for layer in LAYERS:
            work = Work(layer, batch, dtype, device)
            for operation in passes(layer):
                times = timed(contenders(work, operation, device, tuner), options.repetitions, device)
                floor = work.floor(operation, machine.flops, machine.bandwidth)
                floors += layer.count * floor
                case = {"layer": str(layer), "pass": operation, "batch": batch, "dtype": options.dtype}
                for name, seconds in times.items():
                    figures = {"floor ms": 1e3 * floor, "over floor": percentiles(seconds)["p50"] / floor}
                    yield row(BENCHMARK, case, name, seconds, figures, device)
                if "triton, in place" in times:  # stems and weight gradients have no packed weights to read
                    times.setdefault("triton, packed", times["triton, in place"])
                for name, seconds in times.items():
                    kept = totals.get(name, [0.0] * len(seconds))
                    totals[name] = [total + layer.count * own for total, own in zip(kept, seconds, strict=True)]
                if tuner is not None and ONE_STREAM in times:
                    record(tuner, work, operation, times)
        case = {"layer": "all of ResNet-18", "pass": "all", "batch": batch, "dtype": options.dtype}
        for name, seconds in totals.items():
            figures = {"floor ms": 1e3 * floors, "over floor": percentiles(seconds)["p50"] / floors}
            if FOUR_STREAMS in totals:
                figures["to four streams"] = percentiles(ratios(totals, name, FOUR_STREAMS))["p50"]
            yield row(BENCHMARK, case, name, seconds, figures, device)


def record(tuner: Any, work: Work, operation: str, times: Times) -> None:
    """Keep what plain torch takes in a graph beside what the kernels take, so that the fastest way is chosen.

    A stem is computed once, and so on one stream.
    """
    problem, _ = work.by_triton(operation, "in place")
    for way, name in {TORCH: ONE_STREAM, STREAMS: FOUR_STREAMS}.items():
        if way == TORCH or not work.stem:
            tuner.record(problem, way, None, 1e6 * percentiles(times[name])["p50"])


def variants(options: argparse.Namespace, tuner: Any) -> Iterator[Row]:
    """Every configuration on each layer (experiment E2)."""
    yield from sweep("variants", options, PASSES, lambda problem, boxes, shared: problem.candidates(boxes, shared))


def splits(options: argparse.Namespace, tuner: Any) -> Iterator[Row]:
    """Weight gradients cut into more or fewer items (experiment E4)."""
    yield from sweep(
        "splits",
        options,
        PASSES[2:],
        lambda problem, boxes, shared: [
            replace(own, waves=waves) for own in problem.candidates(boxes, shared)[:3] for waves in WAVES
        ],
    )


def sweep(
    experiment: str, options: argparse.Namespace, operations: Sequence[str], choose: Callable[..., list[Any]]
) -> Iterator[Row]:
    """Configurations on each layer, with the first of the batches."""
    from slimkern.kernels.tuning import UNSUITABLE

    dtype, device = getattr(torch, options.dtype), options.device
    properties = torch.cuda.get_device_properties(device)
    batch = options.batch[0]
    for layer in LAYERS:
        work = Work(layer, batch, dtype, device)
        for operation in [own for own in passes(layer) if own in operations]:
            calls: dict[str, Call] = {}
            for way in WAYS:
                if (found := work.by_triton(operation, way)) is None:
                    continue
                problem, launch = found
                for own in choose(problem, properties.major >= 9, properties.shared_memory_per_block_optin):
                    with suppress(*UNSUITABLE):
                        calls[f"{way}, {own.name}"] = captured(partial(launch, own))
            case = {"layer": str(layer), "pass": operation, "batch": batch, "dtype": options.dtype}
            for name, seconds in timed(calls, options.repetitions, device).items():
                yield row(f"{BENCHMARK} {experiment}", case, name, seconds, device=device)


EXPERIMENTS = {"layers": layers, "variants": variants, "splits": splits}


def main() -> None:
    arguments = parser(__doc__, repetitions=20)
    arguments.add_argument("--batch", type=int, nargs="+", help="images (default: 64 128 256 on a GPU, 8 on a CPU)")
    arguments.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="default: bfloat16 on a GPU")
    arguments.add_argument("--experiment", choices=EXPERIMENTS, nargs="+", help="default: all on a GPU, else layers")
    arguments.add_argument(
        "--ship", action="store_true", help="keep measured choices in the package, not in your cache"
    )
    options = arguments.parse_args()
    is_cuda = options.device == "cuda"
    options.batch = options.batch or ([64, 128, 256] if is_cuda else [8])
    options.dtype = options.dtype or ("bfloat16" if is_cuda else "float32")
    experiments = options.experiment or (list(EXPERIMENTS) if is_cuda else ["layers"])
    if experiments != ["layers"] and not is_cuda:
        raise SystemExit("these experiments measure Triton kernels, and need a CUDA GPU")
    tuner = None
    if is_cuda and why_unavailable() is None:
        from slimkern.kernels.tuning import SHIPPED, Tuner

        torch.backends.cudnn.benchmark = True
        tuner = Tuner(torch.device("cuda", torch.cuda.current_device()), SHIPPED if options.ship else None)
    for experiment in experiments:
        finish(EXPERIMENTS[experiment](options, tuner), options)


if __name__ == "__main__":
    main()
