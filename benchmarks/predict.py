"""What a training step of slimkern's kernels launches on an H100, what its code takes, and how long it should take.

    python benchmarks/predict.py [--batch 64] [--precision bf16] [--scroll 0] [--channels 64] [--no-compile]

Runs on a CPU: the step's launches go as far as the door of a driver that isn't there (`absent_gpu`), compiled for it,
and what PyTorch's and the compiled operators would launch is counted by a rule (`operator_launches`). Times are those
of `time_model`, beside the floor that `floors` gives for the speeds the model assumes.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from absent_gpu import Launch, Resources, absent_gpu, resources
from dry_runs import training
from floors import Machine, step_floor
from operator_launches import Called, OperatorLaunches
from time_model import FLOPS, MEMORY, microseconds, work_of

from slimkern.ops import native

KINDS = {"fp32": "ieee", "tf32": "tf32", "bf16": "half", "fp16": "half"}
SHARES = [0.25, 0.5, 0.75, 1.0]
PASSES = {
    "stem": "forward",
    "forward": "forward",
    "input gradient": "input gradient",
    "weight gradient": "weight gradient",
}


class Predicted(NamedTuple):
    """A launch of Triton's, what its code takes if that is known, and microseconds."""

    launch: Launch
    needed: Resources | None
    microseconds: float


def launched(options: argparse.Namespace) -> tuple[list[Predicted], list[Called]]:
    """What a step launches: Triton's kernels, and those of other operators."""
    compiles = (lambda key: False) if options.no_compile else (lambda key: True)
    lists_on_gpus = "torch.nn.utils.clip_grad._device_has_foreach_support"
    with absent_gpu(compiles, note=work_of) as launches, mock.patch(lists_on_gpus, lambda device: True):
        take = training(options.batch, options.precision, options.scroll, options.channels)
        take()  # makes the state of the optimiser
        launches.clear()
        with OperatorLaunches() as others:
            take()
    predicted = []
    with absent_gpu():
        for own in launches:
            needed = resources(own.code) if own.code else None
            predicted.append(Predicted(own, needed, microseconds(own.note, needed)))
    return predicted, others.called


def pass_of(own: Predicted) -> str:
    """The pass of the convolutions that a launch is part of."""
    problem = own.launch.problem or ""
    return next(named for start, named in PASSES.items() if problem.startswith(start))


def table(rows: Iterable[Sequence[Any]]) -> str:
    """Columns, the first flush left."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in texts
    )


def kernels(launches: Sequence[Predicted]) -> Iterable[Sequence[Any]]:
    """A row for each code: how often it is launched, what it takes, and microseconds."""
    yield "Triton kernel, programs at most", "launches", "warps", "registers", "stack", "shared", "µs"
    groups: dict[str, list[Predicted]] = defaultdict(list)
    for own in launches:
        groups[own.launch.key].append(own)
    for group in sorted(groups.values(), key=_time, reverse=True):
        own = group[0]
        programs = max(each.launch.note.tiles.size for each in group)
        name = f"{own.launch.kernel}, {own.launch.note.ending}, {programs}"
        yield name, len(group), own.launch.note.warps, *(own.needed or "???"), f"{_time(group):.0f}"


def _time(launches: Iterable[Predicted | Called]) -> float:
    return sum(own.microseconds for own in launches)


def operators(called: Sequence[Called]) -> Iterable[Sequence[Any]]:
    """A row for each operator."""
    yield "other operators", "calls", "launches", "µs"
    groups: dict[str, list[Called]] = defaultdict(list)
    for own in called:
        groups[own.name].append(own)
    for name, own in sorted(groups.items(), key=lambda pair: -_time(pair[1])):
        yield name, len(own), sum(each.launches for each in own), f"{_time(own):.0f}"


def summary(
    launches: Sequence[Predicted], called: Sequence[Called], options: argparse.Namespace
) -> Iterable[Sequence[Any]]:
    """The parts of a step beside the floor."""
    machine = Machine(FLOPS[KINDS[options.precision]], MEMORY * 1e9)
    size = 4 if options.precision in ("fp32", "tf32") else 2
    floor = {
        part: 1e6 * own for part, own in step_floor(machine, options.batch, SHARES, size, options.channels).items()
    }
    parts: dict[str, list[Predicted]] = defaultdict(list)
    for own in launches:
        parts[pass_of(own)].append(own)
    yield "part of the step", "launches", "µs", "floor µs"
    for name, own in parts.items():
        yield f"convolutions, {name}", len(own), f"{_time(own):.0f}", ""
    compiled = [own for own in called if own.name.startswith("batch_norm")]
    others = [own for own in called if own not in compiled]
    for name, own in (("batch norms", compiled), ("all else", others)):
        yield name, sum(each.launches for each in own), f"{_time(own):.0f}", ""
    for part, own in floor.items():
        yield f"floor: {part}", "", "", f"{own:.0f}"
    count = len(launches) + sum(own.launches for own in called)
    total = _time(launches) + _time(called)
    yield "step", count, f"{total:.0f}", f"{sum(floor.values()):.0f}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--precision", choices=KINDS, default="bf16")
    parser.add_argument("--scroll", type=int, default=0)
    parser.add_argument("--channels", type=int, default=64, help="of the first stage")
    parser.add_argument("--no-compile", action="store_true", help="leave out what takes a minute: registers and memory")
    options = parser.parse_args(arguments)
    if options.batch < 1:
        parser.error(f"--batch {options.batch} must be 1 or more")
    if reason := native.why_unavailable("cpu"):
        print(f"NOTE: batch norms are counted as plain torch's, as there is no native core: {reason}\n")
    launches, called = launched(options)
    print(
        f"ResNet-18, batch {options.batch}, {options.precision}, scroll {options.scroll}, torch {torch.__version__}\n"
    )
    for rows in (kernels(launches), operators(called), summary(launches, called, options)):
        print(table(rows), end="\n\n")


if __name__ == "__main__":
    main()
