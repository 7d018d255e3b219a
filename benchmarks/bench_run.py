"""One task of the ScrollNet paper's protocol from end to end: images, epochs, validation, test, checkpoint in memory.

    python benchmarks/bench_run.py --root DATA [--epochs 1] [--images 640] [--save]

CIFAR-100 in ten tasks of ten classes, ResNet-18, batches of 64. `--images` shortens the task's training set. From the
seconds of an epoch and of the rest follows an estimate of a full cell of the paper (ten tasks of 200 epochs on all
images), which is named so: nothing of it was run.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rows import Row, finish, parser, row

from slimkern.continual.config import TrainConfig
from slimkern.continual.data import Dataset, MissingDataError, load
from slimkern.continual.metrics import Counts
from slimkern.continual.recorder import EpochSummary, Recorder
from slimkern.continual.training import Trainer
from slimkern.memory import keep_freed_memory

PAPER = TrainConfig(data="cifar100", tasks=10)
EPOCHS, IMAGES = 200, 4500


class _EndOfTask(Exception):
    pass


class Stopwatch(Recorder):
    """Seconds of each epoch and of what follows the last one; ends the run with its first task."""

    def __init__(self) -> None:
        self.epochs: list[float] = []
        self.rest = 0.0
        self.peak: int | None = None

    def epoch_finished(self, summary: EpochSummary) -> None:
        self.epochs.append(summary.seconds)
        self.peak = summary.peak_memory
        self._after = time.perf_counter()

    def task_finished(self, task: int, counts: Counts) -> None:
        self.rest = time.perf_counter() - self._after
        raise _EndOfTask


def measured(make: Callable[[], Trainer]) -> tuple[Stopwatch, float]:
    """The stopwatch of one task, and the seconds of the whole."""
    start, watch = time.perf_counter(), Stopwatch()
    with suppress(_EndOfTask):
        make().run(watch)
    return watch, time.perf_counter() - start


def shortened(dataset: Dataset, share: float) -> Dataset:
    """The first training images of each class."""
    labels = dataset.train.labels
    places = [(labels == label).nonzero()[:, 0] for label in range(len(dataset.classes))]
    kept = torch.cat([own[: max(2, round(share * len(own)))] for own in places])
    return replace(dataset, train=dataset.train.select(kept))


def measure(config: TrainConfig, dataset: Dataset, images: int, device: str, eager: bool) -> Row:
    """The row of one setting."""
    shorter = shortened(dataset, images / IMAGES)
    watch, seconds = measured(lambda: Trainer(config, shorter, torch.device(device), eager=eager))
    trained = round(IMAGES * min(1.0, images / IMAGES))
    # The first epochs of a GPU record graphs; the last is like all that would follow. Tests grow with the tasks seen.
    cell = 10 * EPOCHS * watch.epochs[-1] * IMAGES / trained + sum(range(1, 11)) * watch.rest
    case: dict[str, Any] = {
        "data": config.data, "widths": len(config.all_widths().shares), "precision": config.precision, "batch": 64,
        "epochs": config.epochs, "images": trained,
    }  # fmt: skip
    figures = {
        "seconds an epoch": watch.epochs[-1],
        "seconds after the epochs": watch.rest,
        "estimate of a full cell, hours": cell / 3600,
        "peak MB": None if watch.peak is None else watch.peak / 1e6,
    }
    return row("run", case, "one task, eager" if eager else "one task, captured", [seconds], figures, device)


def main() -> None:
    options = parser(__doc__, 1)
    options.add_argument("--root", type=Path, default=os.environ.get("SLIMKERN_DATA"), help="folder of CIFAR-100")
    on_gpu = torch.cuda.is_available()
    options.add_argument("--epochs", type=int, default=4 if on_gpu else 1)
    options.add_argument("--images", type=int, default=IMAGES if on_gpu else 320, help="of the task's training set")
    options.add_argument("--widths", type=float, nargs="+", default=[1, 4], help="numbers of even widths")
    options.add_argument("--precisions", nargs="+", default=["bf16", "tf32"] if on_gpu else ["fp32"])
    arguments = options.parse_args()
    try:
        dataset = load("cifar100", arguments.root, False)
    except MissingDataError as error:
        print(f"left out: {error}", file=sys.stderr)
        return
    keep_freed_memory()
    config = replace(PAPER, epochs=arguments.epochs)
    settings = [
        (replace(config, widths=(widths,), precision=precision), eager)
        for precision in arguments.precisions
        for widths in arguments.widths
        for eager in ((False, True) if arguments.device == "cuda" else (True,))
    ]
    finish([measure(own, dataset, arguments.images, arguments.device, eager) for own, eager in settings], arguments)


if __name__ == "__main__":
    main()
