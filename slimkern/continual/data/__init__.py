"""Datasets that fit in memory, by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal, get_args

from slimkern.continual.data import cifar, digits, mnist, tiny_imagenet
from slimkern.continual.data.augment import AUGMENTATIONS, Augmentation
from slimkern.continual.data.errors import (
    CorruptDataError,
    MissingDataError,
    MissingExtraError,
    UnknownDatasetError,
)
from slimkern.continual.data.image_set import Dataset, ImageSet

__all__ = [
    "AUGMENTATIONS",
    "IMAGE_SHAPES",
    "Augmentation",
    "CorruptDataError",
    "Dataset",
    "DatasetName",
    "ImageSet",
    "MissingDataError",
    "MissingExtraError",
    "UnknownDatasetError",
    "load",
]

IMAGE_SHAPES: Mapping[str, tuple[int, int, int]] = MappingProxyType(
    {
        "digits": (1, 8, 8),
        "mnist": (1, 28, 28),
        "fashion-mnist": (1, 28, 28),
        "cifar10": (3, 32, 32),
        "cifar100": (3, 32, 32),
        "tiny-imagenet": (3, 64, 64),
    }
)
"""Channels, height and width of each dataset's images."""
DatasetName = Literal["digits", "mnist", "fashion-mnist", "cifar10", "cifar100", "tiny-imagenet"]


def load(name: str, root: Path | None = None, download: bool = False) -> Dataset:
    """Read a dataset into memory.

    ``name`` is one of ``DatasetName``. ``root`` is the folder that holds the dataset's own folder; digits, which come
    with scikit-learn, need none. ``download`` lets torchvision fetch the official files of
    MNIST, Fashion-MNIST and CIFAR into ``root`` if they are not there yet; the others are never fetched.

    Raises:
        UnknownDatasetError: no such dataset.
        MissingDataError: the files are not under ``root``.
        CorruptDataError: a file is truncated or altered.
        MissingExtraError: the package that reads the files is not installed.
    """
    match name:
        case "digits":
            return digits.read()
        case "mnist" | "fashion-mnist":
            return mnist.read(name, root, download)
        case "cifar10" | "cifar100":
            return cifar.read(name, root, download)
        case "tiny-imagenet":
            return tiny_imagenet.read(root)
    raise UnknownDatasetError(f"unknown dataset {name!r}; allowed: {', '.join(get_args(DatasetName))}")
