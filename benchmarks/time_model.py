"""What a launch on an H100 should take: a guess from its arithmetic, its memory and what its code takes.

Guesses of this kind were off by a third in either direction before; they say where to look, not what was measured.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from absent_gpu import GPU, Resources
from numpy.typing import NDArray

CLOCK = 1.7
"""Cycles of a processor in a nanosecond, under load."""

PRODUCTS = {"half": 2048 * 0.92, "tf32": 1024 * 0.92, "ieee": 128 * 0.7}
"""Multiply-adds of a processor in a cycle: of the tensor cores as far as kernels get there, of plain arithmetic."""

LOADED, CACHE, MEMORY = 64.0, 5500.0, 3000.0
"""Bytes that a processor loads from the second-level cache in a cycle, that all of them do in a nanosecond, and that
memory gives in one."""

LATENCY, FILL = 0.53, 0.6
"""Microseconds from asking for operands to having them, hidden by the stages of a pipeline; and until a tile's pipeline
is full."""

EPILOGUE = {"moments": 1.7, "gather": 0.47, "reduction": 0.38}
"""Microseconds that a program spends on a tile after its products, by what it does there."""

GAP = 1.0
"""Microseconds from one kernel of a graph to the next."""

MERGE = 0.24
"""Microseconds that adding one part's moments to others takes, in float64 and with a division."""

FLOPS = {"half": 790e12, "tf32": 395e12, "ieee": 50e12}
"""A second, of the floor."""


@dataclass(frozen=True)
class Work:
    """Of a Triton launch, for the time it takes; arrays have an entry for each program.

    Attributes:
        tiles: that a program computes.
        steps: of all its tiles' pipelines.
        products: multiply-adds of a step.
        loaded: bytes of operands of a step.
        moved: bytes of memory that the launch reads or writes at least.
        kind: how products are formed: half, tf32 or ieee.
        ending: what follows a tile's products, see `EPILOGUE`.
        warps: of a program.
        stages: of its pipeline.
    """

    tiles: NDArray[np.int64]
    steps: NDArray[np.int64]
    products: int
    loaded: int
    moved: int
    kind: str
    ending: str
    warps: int
    stages: int


def work_of(kernel: str, arguments: dict[str, Any], grid: tuple[int, ...]) -> Work:
    """What a launch of one of our kernels does."""
    tensors = list(tensors_of(arguments.values()))
    moved = sum({own.data_ptr(): own.numel() * own.element_size() for own in tensors}.values())
    common = {"moved": moved, "warps": arguments.get("num_warps", 4), "stages": arguments.get("num_stages", 3)}
    none = np.zeros(int(np.prod(grid)), np.int64)
    if kernel == "add_partial_sums":
        return Work(none, none, 0, 0, kind="half", ending="reduction", **common)
    (source, *_) = tensors_of([arguments.get("sources", arguments.get("slabs", arguments.get("source")))])
    size = source.element_size()
    common["kind"] = arguments["PRECISION"] if size == 4 else "half"
    if kernel.startswith("sum_"):
        rows, columns, depth = arguments["OUTPUTS"], arguments["TAPS"] * arguments["INPUTS"], arguments["PIXELS"]
        items, segments = arguments["items"].numpy(), arguments["segments"].numpy()
        ends = np.concatenate([[0], np.cumsum(segments[:, 2] - segments[:, 1])])
        steps, tiles, ending = ends[items[:, 5]] - ends[items[:, 4]], none + 1, "reduction"
    else:
        rows, depth = arguments["CHANNELS"], arguments["BLOCK_DEPTH"]
        columns = int(np.prod(arguments.get("BOX", arguments.get("PIXELS"))))
        ending = "gather" if arguments["moments"] is None else "moments"
        if kernel == "gather_few_channels":
            taps = arguments["INPUTS"] * int(np.prod(arguments["KERNEL"]))
            steps, tiles = none + -(-taps // depth), none + 1
        else:
            tiles, steps = _shares(arguments, depth)
    return Work(
        tiles, steps, rows * columns * depth, (rows + columns) * depth * size, ending=ending, **common
    )  # fmt: skip


def _shares(arguments: dict[str, Any], depth: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The tiles of each program of a `gather`, and their steps."""
    from slimkern.kernels.scroll_conv2d_row import GatherRow

    table = dict(zip(GatherRow._fields, arguments["table"].numpy().T, strict=True))
    of_row = table["tap_rows"] * table["tap_columns"] * -(-table["depth"] // depth)
    starts = arguments["starts"].numpy().astype(np.int64)
    if "segments" in arguments:
        firsts = np.append(arguments["segments"].numpy()[:, 1], len(arguments["tiles"]))
        starts = firsts[starts]
    ends = np.concatenate([[0], np.cumsum(of_row[arguments["tiles"].numpy()[:, 0]])])
    return np.diff(starts), np.diff(ends[starts])


def microseconds(work: Work, needed: Resources | None) -> float:
    """What a launch should take, the gap to the next one included.

    Args:
        work: what it does.
        needed: what its code takes, or None if that is unknown: then processors hold whatever they are given.
    """
    by_processor = _by_processor(work.steps)
    tensor = by_processor.max() * work.products / PRODUCTS[work.kind] / CLOCK / 1e3
    cache = max(
        by_processor.max() * work.loaded / LOADED / CLOCK, work.steps.sum() * work.loaded / CACHE
    ) / 1e3  # fmt: skip
    hidden = LATENCY / max(work.stages - 1, 1)
    waiting = work.tiles * FILL + work.steps * hidden
    held = np.maximum(np.minimum(_by_processor(np.ones_like(work.tiles)), resident(work.warps, needed)), 1)
    latency = (_by_processor(waiting) / held).max()
    ending = (_by_processor(work.tiles) / held).max() * EPILOGUE[work.ending]
    return max(tensor, cache, work.moved / MEMORY / 1e3, latency) + ending + GAP


def resident(warps: int, needed: Resources | None) -> int:
    """Programs that a processor holds at once."""
    from slimkern.kernels.launch import resident as on_all

    if needed is None:
        return 8
    return on_all(torch.device("cuda", 0), warps, needed.registers, needed.shared) // GPU.multi_processor_count


def _by_processor(numbers: NDArray[Any]) -> NDArray[Any]:
    """The sums of those programs that a processor gets, given in turns."""
    places = np.arange(len(numbers)) % GPU.multi_processor_count
    return np.bincount(places, weights=numbers, minlength=GPU.multi_processor_count)


def tensors_of(values: Iterable[Any]) -> Iterable[torch.Tensor]:
    """All tensors among values and lists of them, however deep."""
    for own in values:
        if isinstance(own, torch.Tensor):
            yield own
        elif isinstance(own, list | tuple):
            yield from tensors_of(own)
