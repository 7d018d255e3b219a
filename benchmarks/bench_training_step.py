"""One training step of ResNet-18 on 32x32 images: all widths in slimkern, beside everything else that trains them.

    python benchmarks/bench_training_step.py [--batches 64 128] [--precisions fp32 bf16] [--scrolls 0 1] [--only plain]

All steps do forward pass, loss, backward pass, clipping and update, and take turns in one process; the figure to read
is the ratio to the plain network's step, repetition by repetition. A step that doesn't run here is left out, with the
reason; so is one for which `--budget`, the seconds that the turns of one batch size in one precision may take, has no
room, and all that would come after it. Compiling takes a minute or more a step and isn't counted; `--skip compiled`
leaves it out.

    plain       the network alone, no sub-networks
    slimkern    all widths in one pass, by each backend
    passes      a pass for each width at its best: views of the weights, channels-last, compiled, captured, on streams
    released    a pass for each width, weights rolled by concatenation, NCHW: the way of the released ScrollNet code
    masked      the dense network on as many copies of the batch, with channels masked
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from floors import Machine, step_floor
from rows import FEWEST, Row, finish, in_turns, left_out, parser, percentiles, ratios, row
from steps import BACKENDS, DTYPES, KINDS, Training, steps

from slimkern.continual.precision import tensor_float_32
from slimkern.memory import keep_freed_memory
from slimkern.widths import Widths

LONG = 5.0
"""Seconds of a first step that tell how long the next will take: what is done once hardly counts."""
Made = dict[str, tuple[Training, int, int | None]]
"""Steps that run, what the host starts in each, and the bytes that it takes."""


def ready(options: argparse.Namespace, batch: int, precision: str) -> Made:
    """The steps that run here and that the budget has room for."""
    made: Made = {}
    turn = 0.0  # seconds of one turn of all so far
    for name, make in steps(options, batch, precision):
        what = f"{name}, {precision}, batch {batch}"
        if turn * FEWEST > options.budget:
            left_out(what, f"{FEWEST} turns of the others already take {turn * FEWEST:.0f} s; see --budget")
            continue
        try:
            training = make()
            training.select()
            seconds = _seconds(training)
            if seconds < LONG or not name.endswith("eager"):
                for _ in range(
                    3 if options.device == "cuda" or name.endswith("captured") else 0
                ):  # recorded in the third
                    training()
                seconds = _seconds(training)
            turn += seconds
            if made and turn * FEWEST > options.budget:
                left_out(what, f"{FEWEST} turns with it would take {turn * FEWEST:.0f} s; see --budget")
            else:
                made[name] = (training, *training.profile())
        except Exception as error:  # whatever a compiler or a driver may raise
            left_out(what, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
    return made


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(options: argparse.Namespace, batch: int, precision: str) -> list[Row]:
    """The rows of one batch size in one precision."""
    made, on_gpu = ready(options, batch, precision), options.device == "cuda"
    running = {name: training for name, (training, _, _) in made.items()}
    times = in_turns(
        running,
        options.repetitions,
        warmup=1 if on_gpu else 0,
        inner=10 if on_gpu else 1,  # a step may be shorter than the way to the GPU and back
        device=options.device,
        budget=options.budget,
        before=lambda name: running[name].select(),
    )
    machine = Machine.measured(DTYPES[precision], options.device, precision == "tf32")
    widths, size = list(Widths.of(options.widths).fractions), DTYPES[precision].itemsize
    plain = next((name for name in ("plain, captured", "plain, eager") if name in times), None)
    case = {"batch": batch, "precision": precision, "widths": options.widths, "scroll": options.scroll}
    if options.channels != 64:
        case["channels"] = options.channels
    result = []
    for name, seconds in times.items():
        middle, (_, launches, peak) = statistics.median(seconds), made[name]
        shares = [1.0] if name.startswith("plain") else widths
        floor = sum(step_floor(machine, batch, shares, size, options.channels).values())
        own = {f"ratio {key}": value for key, value in percentiles(ratios(times, name, plain)).items()} if plain else {}
        figures = {
            "images/s": batch / middle,
            "plain": plain,
            "tuned": "yes" if options.tune else "no",
            **own,
            "ratio to roofline": middle / floor,
            "launches": launches,
            "peak MB": None if peak is None else peak / 1e6,
        }
        result.append(row("training_step", case, name, seconds, figures, options.device))
    return result


def main() -> None:
    options = parser(__doc__, 10, budget=150.0)
    options.add_argument("--batches", type=int, nargs="+", help="images a step; by default 64, on a GPU also 128, 256")
    options.add_argument(
        "--precisions", nargs="+", choices=DTYPES, help="by default fp32 and bf16, on a GPU all, in this order"
    )
    options.add_argument("--widths", type=int, default=4, help="number of even widths")
    options.add_argument(
        "--scrolls", type=int, nargs="+", help="blocks that the ranking is scrolled by; by default 0, on a GPU also 1"
    )
    options.add_argument("--channels", type=int, default=64, help="of the first stage; 64 is ResNet-18")
    options.add_argument("--only", nargs="+", choices=KINDS, default=KINDS, help="kinds of steps; see above")
    options.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS, help="of slimkern's steps")
    options.add_argument(
        "--skip", nargs="+", choices=("eager", "compiled", "captured"), default=[], help="ways to leave out"
    )
    options.add_argument(
        "--tune",
        action="store_true",
        help="torch.backends.cudnn.benchmark: try what is fastest",
    )
    arguments = options.parse_args()
    on_gpu = arguments.device == "cuda"
    torch.backends.cudnn.benchmark = arguments.tune
    keep_freed_memory()  # as the trainer does on a CPU; all gain by it
    for precision in arguments.precisions or (["bf16", "tf32", "fp16", "fp32"] if on_gpu else ["fp32", "bf16"]):
        for batch in arguments.batches or ([64, 128, 256] if on_gpu else [64]):
            for scroll in arguments.scrolls or ([0, 1] if on_gpu else [0]):
                arguments.scroll = scroll
                with tensor_float_32(precision):
                    finish(measure(arguments, batch, precision), arguments)


if __name__ == "__main__":
    main()
