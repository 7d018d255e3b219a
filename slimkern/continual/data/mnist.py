"""MNIST (LeCun et al., 1998) and Fashion-MNIST (Xiao et al., 2017) from their idx files, as torchvision keeps them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from slimkern.continual.data.errors import CorruptDataError, MissingDataError, MissingExtraError
from slimkern.continual.data.image_set import Dataset, ImageSet

if TYPE_CHECKING:
    from torchvision.datasets import MNIST

# Mean and standard deviation of all training pixels.
_MEAN_AND_STD = {"mnist": (0.1307, 0.3081), "fashion-mnist": (0.2860, 0.3530)}
_FILES = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
_SIZES = {"train": 60000, "test": 10000}


def read(name: Literal["mnist", "fashion-mnist"], root: Path | None, download: bool = False) -> Dataset:
    """60000 training and 10000 test images, uint8 [N, 1, 28, 28], with the official labels.

    Raises:
        MissingDataError: the files are not under ``root`` and could not be, or were not to be, fetched.
        CorruptDataError: a file is truncated or not what its name says.
        MissingExtraError: torchvision is not installed.
    """
    try:
        from torchvision import datasets
    except ImportError as error:
        raise MissingExtraError("torchvision") from error

    source = {"mnist": datasets.MNIST, "fashion-mnist": datasets.FashionMNIST}[name]
    folder = Path(root or "") / source.__name__ / "raw"
    remedy = f"fetch it with --download (download=True), or put {', '.join(_FILES)} into {source.__name__}/raw there"
    if root is None:
        raise MissingDataError(f"{name} needs a data folder and none was given; {remedy}")
    try:
        if download:
            source(root, download=True)
    except (OSError, RuntimeError) as error:
        raise MissingDataError(f"{name} could not be fetched into {root}: {error}; {remedy}") from error
    missing = [file for file in _FILES if not (folder / file).is_file()]
    if missing:
        raise MissingDataError(f"{name} was not found: {folder / missing[0]} is missing; {remedy}")
    parts = {part: _read(source, root, part == "train", folder) for part in _SIZES}
    for part, images in parts.items():
        if len(images) != _SIZES[part] or list(images.images.shape[1:]) != [1, 28, 28]:
            raise CorruptDataError(
                f"the {part} images in {folder} are {list(images.images.shape)}, not {[_SIZES[part], 1, 28, 28]}"
            )
    mean, std = _MEAN_AND_STD[name]
    classes = tuple(label.partition(" - ")[0] for label in source.classes)
    return Dataset(name, parts["train"], parts["test"], classes, (mean,), (std,), "shift")


def _read(source: type[MNIST], root: Path, train: bool, folder: Path) -> ImageSet:
    try:
        data = source(root, train=train)
        return ImageSet(data.data[:, None].contiguous(), data.targets.to(torch.int64))
    # What torchvision meets in a damaged file ends in one of these.
    except (OSError, RuntimeError, ValueError, AssertionError, KeyError, IndexError, TypeError) as error:
        raise CorruptDataError(
            f"a file in {folder} is truncated or corrupt: {error or type(error).__name__}"
        ) from error
