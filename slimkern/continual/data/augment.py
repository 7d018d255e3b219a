"""Augmentations: from uint8 images to the normalised float32 a network sees, a batch at a time, on any device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import torch
from torch import Generator, Tensor

from slimkern.continual.data.crops import random_crop, random_resized_crop_flip

_BRIGHTNESS = 63 / 255


def _jittered(images: Tensor, generator: Generator | None) -> Tensor:
    """Cropped and flipped, then each brighter or darker by a factor of its own, uniform in 1 +- 63 / 255."""
    cropped = random_crop(images, generator, padding=4, flip=True)
    factors = torch.rand(len(images), 1, 1, 1, generator=generator, device=images.device) * 2 - 1
    return (cropped * (1 + _BRIGHTNESS * factors)).clamp(max=255).to(torch.uint8)


def _unchanged(images: Tensor, generator: Generator | None) -> Tensor:
    return images


AUGMENTATIONS: Mapping[str, Callable[[Tensor, Generator | None], Tensor]] = MappingProxyType(
    {
        "crop-resize": random_resized_crop_flip,
        "crop-flip": partial(random_crop, padding=4, flip=True),
        "crop-flip-jitter": _jittered,
        "shift": partial(random_crop, padding=1, flip=False),
        "none": _unchanged,
    }
)
"""What each augmentation does to uint8 images before they are normalised.

``crop-resize`` is that of FACIL and the released ScrollNet code: pad 4, random resized crop, flip. ``crop-flip`` is the
usual one for CIFAR: pad 4, random crop, flip;
``crop-flip-jitter`` changes the brightness too, as MEMO and SCL-PNC do. ``shift`` moves by up to one pixel.
"""


@dataclass(frozen=True, eq=False)
class Augmentation:
    """Called on uint8 [N, C, H, W], gives float32 [N, C, H, W]: augmented per image, scaled to [0, 1], normalised.

    Padding comes before normalising, so borders are black. Random numbers come from ``generator``, else from torch's
    global generator of the images' device. Nothing is read back to the host.
    """

    transform: Callable[[Tensor, Generator | None], Tensor]
    scale: Tensor
    shift: Tensor

    @classmethod
    def named(
        cls, name: str, mean: Sequence[float], std: Sequence[float], device: torch.device | str = "cpu"
    ) -> Augmentation:
        """The augmentation ``name`` for images on ``device`` whose channels have this mean and std over [0, 1].

        Raises:
            ValueError: no such augmentation, or ``mean`` and ``std`` differ in length, or ``std`` is not positive.
        """
        if name not in AUGMENTATIONS:
            raise ValueError(f"unknown augmentation {name!r}; allowed: {', '.join(AUGMENTATIONS)}")
        if len(mean) != len(std) or not all(value > 0 for value in std):
            raise ValueError(f"mean and std need one number per channel, std above 0: got {mean} and {std}")
        channels = torch.tensor([mean, std], dtype=torch.float64)[:, :, None, None]
        scale, shift = 1 / (255 * channels[1]), -channels[0] / channels[1]
        return cls(AUGMENTATIONS[name], scale.to(device, torch.float32), shift.to(device, torch.float32))

    def __call__(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        """Augment and normalise a batch for training.

        Raises:
            ValueError: the images are not uint8 [N, C, H, W] with as many channels as ``mean`` has numbers.
        """
        self._check(images)
        return self.transform(images, generator) * self.scale + self.shift

    def normalise(self, images: Tensor) -> Tensor:
        """Only scale and normalise, for evaluation; takes, gives and raises what a call does."""
        self._check(images)
        return images * self.scale + self.shift

    def _check(self, images: Tensor) -> None:
        channels = len(self.scale)
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != channels:
            raise ValueError(
                f"images must be torch.uint8 [N, {channels}, H, W], not {images.dtype} {list(images.shape)}"
            )
