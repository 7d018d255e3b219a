"""Tiny ImageNet (Stanford CS231n): 200 classes of 64x64 images, from the published folder layout."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from slimkern.continual.data.errors import CorruptDataError, MissingDataError, MissingExtraError
from slimkern.continual.data.image_set import Dataset, ImageSet

_FOLDER = "tiny-imagenet-200"
_SIDE = 64
_REMEDY = (
    f"unpack {_FOLDER}.zip (http://cs231n.stanford.edu/{_FOLDER}.zip) so that the data folder holds {_FOLDER}/ with "
    "wnids.txt, words.txt, train/<wnid>/images/*.JPEG, val/images/*.JPEG and val/val_annotations.txt"
)
# Over the training images, as commonly quoted for this dataset.
_MEAN, _STD = (0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821)

_LabelledPath = tuple[Path, int]


def read(root: Path | None) -> Dataset:
    """Training images and, as the test set, the labelled ``val`` images: uint8 [N, 3, 64, 64], greyscale turned to RGB.

    Label i is line i of ``wnids.txt``. Any number of images per class is read, but a warning tells when it is not the
    published 500 for training and 50 for test.

    Raises:
        MissingDataError: a file of the layout, or every image of a class, is missing.
        CorruptDataError: an image or a line of the annotations cannot be read.
        MissingExtraError: Pillow is not installed.
    """
    if root is None:
        raise MissingDataError(f"tiny-imagenet needs a data folder and none was given; {_REMEDY}")
    folder = Path(root) / _FOLDER
    wnids = _lines(folder / "wnids.txt")
    words = dict(line.split("\t", 1) for line in _lines(folder / "words.txt") if "\t" in line)
    train, test = _train_paths(folder, wnids), _test_paths(folder, wnids)
    _check_counts(folder / "train", train, wnids, published=500)
    _check_counts(folder / "val", test, wnids, published=50)
    classes = tuple(words.get(wnid, wnid) for wnid in wnids)
    return Dataset("tiny-imagenet", _decode(train), _decode(test), classes, _MEAN, _STD, "crop-resize")


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise MissingDataError(f"tiny-imagenet was not found: {path} is missing; {_REMEDY}")
    return path.read_text(encoding="utf-8").splitlines()


def _train_paths(folder: Path, wnids: Sequence[str]) -> list[_LabelledPath]:
    return [
        (path, label)
        for label, wnid in enumerate(wnids)
        for path in sorted((folder / "train" / wnid / "images").glob("*.JPEG"))
    ]


def _test_paths(folder: Path, wnids: Sequence[str]) -> list[_LabelledPath]:
    annotations = folder / "val" / "val_annotations.txt"
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    paths = []
    for number, line in enumerate(_lines(annotations), start=1):
        filename, _, rest = line.partition("\t")
        wnid = rest.partition("\t")[0]
        if wnid not in label_of:
            raise CorruptDataError(f"{annotations}, line {number}: {wnid!r} is not in wnids.txt; {_again(annotations)}")
        paths.append((folder / "val" / "images" / filename, label_of[wnid]))
    return paths


def _check_counts(folder: Path, paths: Sequence[_LabelledPath], wnids: Sequence[str], published: int) -> None:
    counts = Counter(label for _, label in paths)
    empty = [wnid for label, wnid in enumerate(wnids) if not counts[label]]
    if empty:
        raise MissingDataError(f"tiny-imagenet is incomplete: {folder} has no image of class {empty[0]}; {_REMEDY}")
    unusual = {wnids[label]: count for label, count in counts.items() if count != published}
    if unusual:
        wnid, count = next(iter(unusual.items()))
        warnings.warn(
            f"{folder}: {len(unusual)} classes do not have the published {published} images, first {wnid} with {count}",
            stacklevel=3,
        )


def _decode(paths: Sequence[_LabelledPath]) -> ImageSet:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError("Pillow") from error

    images = np.empty((len(paths), _SIDE, _SIDE, 3), dtype=np.uint8)

    def decode_into(row: int) -> None:
        path = paths[row][0]
        try:
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB"))
        except OSError as error:
            raise CorruptDataError(f"{path} cannot be decoded ({error}); {_again(path)}") from error
        if pixels.shape != images.shape[1:]:
            height, width, _ = pixels.shape
            raise CorruptDataError(f"{path} is {height}x{width}, not {_SIDE}x{_SIDE}; {_again(path)}")
        images[row] = pixels

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(decode_into, range(len(paths))):
            pass
    labels = torch.tensor([label for _, label in paths], dtype=torch.int64)
    return ImageSet(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), labels)


def _again(path: Path) -> str:
    return f"delete {path.name} and unpack {_FOLDER}.zip again"
