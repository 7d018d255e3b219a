"""A data set of few images, and a recorder that keeps what a run says: enough to train for real in a second."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import cache
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from slimkern.continual.config import TrainConfig
from slimkern.continual.data import Dataset, ImageSet, load
from slimkern.continual.methods import Step
from slimkern.continual.metrics import Counts
from slimkern.continual.network import ContinualNet
from slimkern.continual.recorder import EpochSummary, Plan, Recorder
from slimkern.width_batch import WidthBatch, every_width

TINY = TrainConfig(tasks=2, epochs=2, channels=4, batch_size=8, momentum=0.9, learning_rate=0.02)


@cache
def few_digits(train: int = 10, test: int = 4) -> Dataset:
    """The first digits of each class; skips the test where scikit-learn is missing."""
    pytest.importorskip("sklearn")
    digits = load("digits")
    return replace(digits, train=_first(digits.train, train), test=_first(digits.test, test))


@cache
def few_images(train: int = 10, test: int = 4) -> Dataset:
    """As many images of ten classes, drawn: for tests that a missing scikit-learn must not skip."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.rand(10, 1, 8, 8, generator=generator)

    def drawn(of_each_class: int) -> ImageSet:
        labels = torch.arange(10).repeat(of_each_class)
        noise = torch.rand(len(labels), 1, 8, 8, generator=generator)
        return ImageSet((patterns[labels] * 200 + noise * 55).to(torch.uint8), labels)

    names = tuple(str(label) for label in range(10))
    return Dataset("drawn", drawn(train), drawn(test), names, (0.5,), (0.25,), "shift")


def _first(images: ImageSet, of_each_class: int) -> ImageSet:
    return images.select(torch.cat([(images.labels == label).nonzero()[:of_each_class, 0] for label in range(10)]))


def step_of(net: ContinualNet, images: Tensor, labels: Tensor, classes: range, maps: WidthBatch | None = None) -> Step:
    """What a training step hands to a method; `maps` are the backbone's of these images unless given."""
    maps = cast(WidthBatch, net.backbone.maps(every_width(images))) if maps is None else maps
    *_, own = net.cross_entropies(maps, labels, classes).unbind()
    return Step(net, images, labels, classes, maps.at(1.0), own)


class Listener(Recorder):
    """Keeps epochs, and checkpoints as the bytes they are stored in."""

    def __init__(self) -> None:
        self.began: list[tuple[int, int]] = []
        self.epochs: list[EpochSummary] = []
        self.checkpoints: list[bytes] = []
        self.counts: Counts | None = None

    def started(self, plan: Plan, task: int, epoch: int) -> None:
        self.began.append((task, epoch))

    def epoch_finished(self, summary: EpochSummary) -> None:
        self.epochs.append(summary)

    def checkpoint(self, state: dict[str, Any]) -> None:
        self.checkpoints.append(stored(state))

    def finished(self, counts: Counts) -> None:
        self.counts = counts


class Noting(Listener):
    """Keeps what is noted as well."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[tuple[str, dict[str, Any]]] = []

    def noted(self, kind: str, facts: dict[str, Any]) -> None:
        self.notes.append((kind, facts))

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [facts for own, facts in self.notes if own == kind]


def stored(state: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def restored(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), weights_only=True)


def differences(one: Any, other: Any, place: str = "state") -> list[str]:
    """Where two checkpoints aren't the same to the bit."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return [] if one.dtype == other.dtype and torch.equal(one, other) else [place]
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [found for key in one for found in differences(one[key], other[key], f"{place}.{key}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [found for index, pair in pairs for found in differences(*pair, f"{place}[{index}]")]
    return [] if type(one) is type(other) and one == other else [place]
