"""One training step of ResNet-18 on 32x32 images: all widths in slimkern, beside everything else that trains them.

    python benchmarks/bench_training_step.py [--batches 64 128] [--precisions fp32 bf16] [--only plain slimkern]

All steps do forward pass, loss, backward pass, clipping and update, and take turns in one process; the figure to read
is the ratio to the plain network's step, repetition by repetition. A step that doesn't run here is left out, with the
reason. Compiling takes a minute or more a step; `--skip compiled` leaves it out.

    plain       the network alone, no sub-networks
    released    a pass for each width, weights rolled by concatenation, NCHW: the way of the released ScrollNet code
    passes      a pass for each width at its best: views of the weights, channels-last, compiled, captured, on streams
    masked      the dense network on as many copies of the batch, with channels masked
    slimkern    all widths in one pass, by each backend
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from functools import partial

import contenders
import torch
from contenders import Contender
from floors import Machine, step_floor
from rows import Row, finish, in_turns, parser, percentiles, ratios, row
from torch.profiler import ProfilerActivity, profile

import slimkern as sk
from slimkern.continual.config import TrainConfig
from slimkern.continual.optimiser import Optimiser
from slimkern.continual.precision import autocast, tensor_float_32
from slimkern.memory import keep_freed_memory
from slimkern.ops import backends
from slimkern.widths import Widths

KINDS = ("plain", "released", "passes", "masked", "slimkern")
BACKENDS = {"torch": "torch", "native": "native,torch", "triton": "triton,native,torch"}
DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Step = Callable[[], object]


class Training:
    """The step of a contender, in one precision, on one batch."""

    def __init__(self, contender: Contender, precision: str, batch: int, device: str, backend: str | None) -> None:
        self._loss, self._precision, self._device = contender.loss, precision, torch.device(device)
        self._backend = backend
        self._optimiser = Optimiser(contender.parameters, TrainConfig(learning_rate=0.01, precision=precision))
        torch.manual_seed(1)
        self._images = torch.randn(batch, 3, 32, 32, device=device).contiguous(memory_format=contender.layout)
        self._labels = torch.randint(100, (batch,), device=device)

    def eager(self) -> Step:
        return lambda: self._step(self._images, self._labels)

    def compiled(self, mode: str) -> Step:
        self._loss = torch.compile(self._loss, mode=mode)
        return self.eager()

    def captured(self) -> Step:
        step = sk.capture(self._step)

        def launch() -> None:
            step(self._images, self._labels)
            if step.reason:
                raise RuntimeError(step.reason)

        return launch

    def _step(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        if self._backend is not None:
            os.environ[backends.ENVIRONMENT_VARIABLE] = BACKENDS[self._backend]
        with autocast(self._precision, self._device):
            loss = self._loss(images, labels)
        self._optimiser.step(loss)


def steps(options: argparse.Namespace, batch: int, precision: str) -> Iterator[tuple[str, Callable[[], Step]]]:
    """The name of each step, and what makes it."""
    widths, on_gpu = Widths.of(options.widths), options.device == "cuda"
    base = contenders.base_network().to(options.device)

    def training(make: Callable[[], Contender], backend: str | None = None) -> Training:
        return Training(make(), precision, batch, options.device, backend)

    def passes(**kinds: object) -> Contender:
        return contenders.passes(base, widths, options.scroll, contenders.by_views, **kinds)

    plain = partial(contenders.plain, base)
    if "plain" in options.only:
        yield "plain, eager", lambda: training(plain).eager()
        yield "plain, compiled", lambda: training(plain).compiled("default")
        if on_gpu:
            yield "plain, captured", lambda: training(plain).captured()
    if "released" in options.only:
        way = partial(contenders.passes, base, widths, options.scroll, contenders.by_concatenation)
        yield "released way, eager", lambda: training(partial(way, layout=torch.contiguous_format)).eager()
    if "passes" in options.only:
        yield "passes, eager", lambda: training(passes).eager()
        if on_gpu:
            yield "passes, captured", lambda: training(passes).captured()
            yield "passes, captured on streams", lambda: training(partial(passes, streams=True)).captured()
        yield "passes, compiled", lambda: training(passes).compiled("max-autotune")
    if "masked" in options.only and not options.scroll:
        yield "masked, eager", lambda: training(partial(contenders.masked, base, widths)).eager()
    if "slimkern" in options.only:
        own = partial(contenders.slimkern, base, widths, options.scroll)
        for name in BACKENDS:
            if not any(name in known for known in backends.OPERATORS.values()):
                continue
            yield f"slimkern {name}, eager", lambda name=name: training(own, name).eager()
            if on_gpu:
                yield f"slimkern {name}, captured", lambda name=name: training(own, name).captured()


def ready(make: Callable[[], Step], name: str) -> Step | None:
    """The step after a few trials, or None with the reason told."""
    try:
        step = make()
        for _ in range(4 if torch.cuda.is_available() else 2):  # a captured step is recorded in the third
            step()
    except Exception as error:  # whatever a compiler or a driver may raise
        print(f"left out: {name}: {type(error).__name__}: {str(error).partition(chr(10))[0]}", file=sys.stderr)
        return None
    return step


def launches(step: Step, device: str) -> int:
    """How often the host starts something: kernels, copies and graphs on a GPU, operators on a CPU."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with profile(activities=activities) as profiled:
        step()
    if device == "cuda":
        kinds = ("cudaLaunch", "cuLaunch", "cudaGraphLaunch", "cudaMemcpy", "cudaMemset")
        return sum(event.name.startswith(kinds) for event in profiled.events())
    return sum("::" in event.name and event.cpu_parent is None for event in profiled.events())


def peak_bytes(step: Step, device: str) -> int | None:
    """Memory that a step takes for itself; unknown on a CPU, and where a graph holds it already."""
    if device == "cpu":
        return None
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated() - before


def measure(options: argparse.Namespace, batch: int, precision: str) -> list[Row]:
    """The rows of one batch size in one precision."""
    wanted = ((name, make) for name, make in steps(options, batch, precision) if not name.endswith(options.skip))
    made = {name: ready(make, name) for name, make in wanted}
    running = {name: step for name, step in made.items() if step is not None}
    times = in_turns(running, options.repetitions, warmup=1, device=options.device)
    machine = Machine.measured(DTYPES[precision], options.device)
    floor = sum(
        step_floor(machine, batch, list(Widths.of(options.widths).fractions), DTYPES[precision].itemsize).values()
    )
    plain = next((name for name in ("plain, captured", "plain, eager") if name in times), None)
    case = {"batch": batch, "precision": precision, "widths": options.widths, "scroll": options.scroll}
    result = []
    for name, seconds in times.items():
        middle = statistics.median(seconds)
        own = {f"ratio {key}": value for key, value in percentiles(ratios(times, name, plain)).items()} if plain else {}
        figures = {
            "images/s": batch / middle,
            "plain": plain,
            **own,
            "ratio to roofline": None if name.startswith("plain") else middle / floor,
            "launches": launches(running[name], options.device),
            "peak MB": None if (peak := peak_bytes(running[name], options.device)) is None else peak / 1e6,
        }
        result.append(row("training_step", case, name, seconds, figures, options.device))
    return result


def main() -> None:
    options = parser(__doc__, 10)
    on_gpu = torch.cuda.is_available()
    options.add_argument(
        "--batches", type=int, nargs="+", default=[64, 128, 256] if on_gpu else [64], help="images a step"
    )
    options.add_argument(
        "--precisions",
        nargs="+",
        choices=DTYPES,
        default=["bf16", "tf32", "fp16", "fp32"] if on_gpu else ["fp32", "bf16"],
    )
    options.add_argument("--widths", type=int, default=4, help="number of even widths")
    options.add_argument("--scroll", type=int, default=0, help="blocks that the ranking is scrolled by")
    options.add_argument("--only", nargs="+", choices=KINDS, default=KINDS, help="kinds of steps; see above")
    options.add_argument("--skip", choices=("eager", "compiled", "captured"), default="none", help="ways to leave out")
    arguments = options.parse_args()
    keep_freed_memory()  # as the trainer does on a CPU; all gain by it
    for precision in arguments.precisions:
        for batch in arguments.batches:
            with tensor_float_32(precision):
                finish(measure(arguments, batch, precision), arguments)


if __name__ == "__main__":
    main()
