"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009) from their official files, whose MD5 sums torchvision checks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from slimkern.continual.data.errors import CorruptDataError, MissingDataError, MissingExtraError
from slimkern.continual.data.image_set import Dataset, ImageSet

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR10

# CIFAR-100: the constants of FACIL and of the released ScrollNet code, whose std is that of older CIFAR-10 scripts.
# CIFAR-10: mean and standard deviation of all training pixels.
_MEAN_AND_STD = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4866, 0.4409), (0.2009, 0.1984, 0.2023)),
}


def read(name: Literal["cifar10", "cifar100"], root: Path | None, download: bool = False) -> Dataset:
    """50000 training and 10000 test images, uint8 [N, 3, 32, 32], with the official labels.

    Raises:
        MissingDataError: the official files are not under ``root`` and could not be, or were not to be, fetched.
        CorruptDataError: a file's MD5 sum differs from the published one.
        MissingExtraError: torchvision is not installed.
    """
    try:
        from torchvision import datasets
    except ImportError as error:
        raise MissingExtraError("torchvision") from error

    source = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    if root is None:
        raise MissingDataError(f"{name} needs a data folder and none was given; {_remedy(source)}")
    try:
        train = source(root, train=True, download=download)
        test = source(root, train=False)
    except (OSError, RuntimeError) as error:
        fetching_failed = f" (fetching failed: {error})" if download else ""
        problem = _diagnosis(name, source, Path(root), fetching_failed)
        if problem is None:
            raise
        raise problem from error
    mean, std = _MEAN_AND_STD[name]
    return Dataset(name, _image_set(train), _image_set(test), tuple(train.classes), mean, std, "crop-resize")


def _image_set(part: CIFAR10) -> ImageSet:
    images = torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous()
    return ImageSet(images, torch.tensor(part.targets, dtype=torch.int64))


def _checksums(source: type[CIFAR10]) -> list[tuple[str, str]]:
    """File name and MD5 sum of every official file that is read."""
    parts = [(filename, md5) for filename, md5 in source.train_list + source.test_list]
    return [*parts, (source.meta["filename"], source.meta["md5"])]


def _diagnosis(name: str, source: type[CIFAR10], root: Path, fetching_failed: str) -> Exception | None:
    """Which file is missing or altered, where torchvision only says that something is."""
    from torchvision.datasets.utils import check_integrity

    folder = root / source.base_folder
    if not folder.is_dir():
        return MissingDataError(
            f"{name} was not found: there is no folder {folder}{fetching_failed}; {_remedy(source)}"
        )
    again = f"delete {folder} and fetch it again with --download (download=True){fetching_failed}"
    for filename, md5 in _checksums(source):
        path = folder / filename
        if not path.is_file():
            return MissingDataError(f"{name} is incomplete: {path} is missing; {again}")
        if not check_integrity(path, md5):
            return CorruptDataError(f"{path} is truncated or corrupt: its MD5 sum is not the published {md5}; {again}")
    return None


def _remedy(source: type[CIFAR10]) -> str:
    files = ", ".join(filename for filename, _ in _checksums(source))
    return (
        f"fetch it with --download (download=True), "
        f"or unpack {source.filename} so that the data folder holds {source.base_folder}/ with {files}"
    )
