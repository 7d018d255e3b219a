"""Datasets that fit in memory, by name."""

from __future__ import annotations

from pathlib import Path
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
