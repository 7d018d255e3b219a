"""Handwritten digits (UCI, 8x8, 10 classes) as scikit-learn ships them: a dataset that needs no files."""

from __future__ import annotations

import torch

from slimkern.continual.data.errors import MissingExtraError
from slimkern.continual.data.image_set import Dataset, ImageSet, rank_within_class

_BRIGHTEST = 16
_TEST_EVERY = 5


def read() -> Dataset:
    """1797 greyscale images, uint8 [N, 1, 8, 8], of which every fifth of each class is a test image.

    ``mean`` and ``std`` are those of the training images.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtraError("scikit-learn") from error

    values, targets = (torch.as_tensor(array) for array in load_digits(return_X_y=True))
    images = values.mul(255 / _BRIGHTEST).round().to(torch.uint8).reshape(-1, 1, 8, 8)
    labels = targets.to(torch.int64)
    is_test = rank_within_class(labels) % _TEST_EVERY == _TEST_EVERY - 1
    everything = ImageSet(images, labels)
    train = everything.select(~is_test)
    pixels = train.images / 255
    return Dataset(
        name="digits",
        train=train,
        test=everything.select(is_test),
        classes=tuple(str(digit) for digit in range(10)),
        mean=(pixels.mean().item(),),
        std=(pixels.std().item(),),
        augmentation="shift",
    )
