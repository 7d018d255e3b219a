"""Labelled images held in memory, and the dataset they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images on one device.

    ``images`` is uint8 [N, C, H, W], ``labels`` is int64 [N]; N may be 0.

    Raises:
        TypeError: a dtype differs from the above.
        ValueError: a shape differs from the above, or images and labels differ in length or device.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype != torch.uint8:
            raise TypeError(f"images must be torch.uint8, not {images.dtype}")
        if labels.dtype != torch.int64:
            raise TypeError(f"labels must be torch.int64, not {labels.dtype}")
        if images.ndim != 4:
            raise ValueError(f"images must be [N, C, H, W], not {list(images.shape)}")
        if labels.ndim != 1:
            raise ValueError(f"labels must be [N], not {list(labels.shape)}")
        if len(images) != len(labels):
            raise ValueError(f"every image needs one label: got {len(images)} images and {len(labels)} labels")
        if images.device != labels.device:
            raise ValueError(f"images and labels must share a device: got {images.device} and {labels.device}")

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, index_or_mask: Tensor) -> ImageSet:
        """A copy of the images at an int64 index [M] (its order kept) or where a bool mask [N] is true."""
        return ImageSet(self.images[index_or_mask], self.labels[index_or_mask])

    @staticmethod
    def joined(parts: Sequence[ImageSet]) -> ImageSet:
        """The images of several sets, one after the other."""
        return ImageSet(torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts]))

    def to(self, device: torch.device | str) -> ImageSet:
        """The same images on ``device``."""
        return ImageSet(self.images.to(device), self.labels.to(device))


def rank_within_class(labels: Tensor) -> Tensor:
    """For every label of int64 [N], how many equal labels stand before it."""
    order = labels.argsort(stable=True)
    counts = labels.bincount()
    first = counts.cumsum(0) - counts
    return torch.empty_like(labels).index_copy_(
        0, order, torch.arange(len(labels), device=labels.device) - first[labels[order]]
    )


@dataclass(frozen=True, eq=False)
class Dataset:
    """A named dataset with its fixed train/test split.

    ``classes`` holds the class names: label i is ``classes[i]``. ``mean`` and ``std`` hold one number per channel,
    taken over images scaled to [0, 1]. ``augmentation`` names the default one for training.

    Raises:
        ValueError: train and test differ in image shape, ``mean`` or ``std`` do not have one number per channel, or a
            label has no class name.
    """

    name: str
    train: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: str

    def __post_init__(self) -> None:
        train_shape, test_shape = (list(part.images.shape[1:]) for part in (self.train, self.test))
        if train_shape != test_shape:
            raise ValueError(f"train and test images must share a shape: got {train_shape} and {test_shape}")
        if not len(self.mean) == len(self.std) == train_shape[0]:
            raise ValueError(
                f"mean and std must have one number per channel ({train_shape[0]}): got {self.mean} and {self.std}"
            )
        for part_name, part in (("train", self.train), ("test", self.test)):
            if len(part) and not 0 <= int(part.labels.min()) <= int(part.labels.max()) < len(self.classes):
                raise ValueError(
                    f"{part_name} labels must lie in 0..{len(self.classes) - 1}: "
                    f"got {int(part.labels.min())}..{int(part.labels.max())}"
                )
