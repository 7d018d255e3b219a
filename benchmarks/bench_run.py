"""One task of the ScrollNet paper's protocol from end to end: images, epochs, validation, test, checkpoint in memory.

    python benchmarks/bench_run.py --root DATA [--epochs 1] [--images 640] [--save]

CIFAR-100 in ten tasks of ten classes, ResNet-18, batches of 64. `--images` shortens the task's training set. From the
seconds of an epoch and of the rest follows an estimate of a full cell of the paper (ten tasks of 200 epochs on all
images), which is named so: nothing of it was run. A run is called captured only if its steps were recorded. Where the
files of CIFAR-100 aren't there, random images of their shape and number stand in, and the rows say so.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rows import Row, finish, left_out, parser, row

from slimkern.continual.config import TrainConfig
from slimkern.continual.data import IMAGE_SHAPES, Dataset, ImageSet, MissingDataError, load
from slimkern.continual.metrics import Counts
from slimkern.continual.recorder import EpochSummary, Recorder
from slimkern.continual.training import Trainer
from slimkern.memory import keep_freed_memory

PAPER = TrainConfig(data="cifar100", tasks=10)
EPOCHS, IMAGES = 200, 4500
TRAINING, TEST = 500, 100
"""Images of each class of CIFAR-100."""


class _EndOfTask(Exception):
    pass


class Stopwatch(Recorder):
    """Seconds of each epoch and of what follows the last one, and how it went; ends the run with its first task."""

    def __init__(self) -> None:
        self.epochs: list[float] = []
        self.rest = 0.0
        self.peak: int | None = None
        self.eager_because: str | None = None

    def epoch_finished(self, summary: EpochSummary) -> None:
        self.epochs.append(summary.seconds)
        self.peak, self.eager_because = summary.peak_memory, summary.eager_because
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


def stand_in() -> Dataset:
    """Random images of the shape and number of CIFAR-100's."""
    classes, generator = 100, torch.Generator().manual_seed(0)

    def images(of_each: int) -> ImageSet:
        labels = torch.arange(classes).repeat(of_each)
        size = (len(labels), *IMAGE_SHAPES["cifar100"])
        return ImageSet(torch.randint(256, size, dtype=torch.uint8, generator=generator), labels)

    names, channels = tuple(map(str, range(classes))), IMAGE_SHAPES["cifar100"][0]
    deviation = (1 / 12) ** 0.5  # of numbers between 0 and 1
    return Dataset(
        "random images of cifar100's shape", images(TRAINING), images(TEST), names, (0.5,) * channels,
        (deviation,) * channels, "crop-flip",
    )  # fmt: skip


def measure(config: TrainConfig, dataset: Dataset, images: int, device: str, eager: bool) -> Row:
    """The row of one setting."""
    shorter = shortened(dataset, images / IMAGES)
    watch, seconds = measured(lambda: Trainer(config, shorter, torch.device(device), eager=eager))
    trained = round(IMAGES * min(1.0, images / IMAGES))
    # The first epochs record steps; the last is like all that would follow. Tests grow with the tasks seen.
    cell = 10 * EPOCHS * watch.epochs[-1] * IMAGES / trained + sum(range(1, 11)) * watch.rest
    case: dict[str, Any] = {
        "data": dataset.name, "widths": len(config.all_widths().shares), "precision": config.precision,
        "batch": config.batch_size, "epochs": config.epochs, "images": trained,
    }  # fmt: skip
    if config.channels != PAPER.channels:
        case["channels"] = config.channels
    figures = {
        "seconds an epoch": watch.epochs[-1],
        "seconds after the epochs": watch.rest,
        "estimate of a full cell, hours": cell / 3600,
        "peak MB": None if watch.peak is None else watch.peak / 1e6,
        "eager because": watch.eager_because,
    }
    return row("run", case, f"one task, {'eager' if watch.eager_because else 'captured'}", [seconds], figures, device)


def main() -> None:
    options = parser(__doc__, 1)
    options.add_argument("--root", type=Path, default=os.environ.get("SLIMKERN_DATA"), help="folder of CIFAR-100")
    options.add_argument("--epochs", type=int, help="by default 1, on a GPU 4")
    options.add_argument("--images", type=int, help=f"of the task's training set; by default 320, on a GPU {IMAGES}")
    options.add_argument("--widths", type=float, nargs="+", default=[1, 4], help="numbers of even widths")
    options.add_argument("--precisions", nargs="+", help="by default fp32, on a GPU bf16 and tf32")
    options.add_argument("--channels", type=int, default=PAPER.channels, help="of the first stage")
    arguments = options.parse_args()
    on_gpu = arguments.device == "cuda"
    try:
        dataset = load("cifar100", arguments.root, False)
    except MissingDataError as error:
        left_out("the images of CIFAR-100, for which random ones stand in", error)
        dataset = stand_in()
    keep_freed_memory()
    config = replace(PAPER, epochs=arguments.epochs or (4 if on_gpu else 1), channels=arguments.channels)
    arguments.images = arguments.images or (IMAGES if on_gpu else 320)
    settings = [
        (replace(config, widths=(widths,), precision=precision), eager)
        for precision in arguments.precisions or (["bf16", "tf32"] if on_gpu else ["fp32"])
        for widths in arguments.widths
        for eager in ((False, True) if on_gpu else (False,))
    ]
    measured = (measure(own, dataset, arguments.images, arguments.device, eager) for own, eager in settings)
    finish(measured, arguments)


if __name__ == "__main__":
    main()
