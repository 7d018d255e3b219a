"""Random crops drawn for every image of a batch at once, without reading anything back to the host."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

_SCALE = (0.08, 1.0)
_RATIO = (3 / 4, 4 / 3)
_TRIES = 10


class Boxes(NamedTuple):
    """Rectangles in pixels, one per image: each field is float32 [N] of whole numbers."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor


def draw_boxes(
    count: int,
    height: int,
    width: int,
    device: torch.device,
    generator: Generator | None = None,
    scale: tuple[float, float] = _SCALE,
    ratio: tuple[float, float] = _RATIO,
) -> Boxes:
    """Boxes inside ``height`` x ``width`` with a uniform share of its area and a log-uniform aspect ratio.

    The distribution is that of ``torchvision.transforms.RandomResizedCrop`` (Szegedy et al., 2015), which draws up to
    ten times until a box fits. Here all ten draws are made for every image and the first that fits is taken; where
    none does, the largest box of an allowed ratio.
    """
    area = height * width * _uniform((_TRIES, count), *scale, device, generator)
    aspect = _uniform((_TRIES, count), math.log(ratio[0]), math.log(ratio[1]), device, generator).exp()
    tried_width, tried_height = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    fits = (tried_width > 0) & (tried_width <= width) & (tried_height > 0) & (tried_height <= height)
    first_fit = fits.int().argmax(dim=0, keepdim=True)
    any_fits = fits.any(dim=0)

    def chosen(tried: Tensor, largest: int) -> Tensor:
        return torch.where(any_fits, tried.gather(0, first_fit).squeeze(0), largest)

    box_width = chosen(tried_width, min(width, round(height * ratio[1])))
    box_height = chosen(tried_height, min(height, round(width / ratio[0])))
    return Boxes(_offset(height - box_height, generator), _offset(width - box_width, generator), box_height, box_width)


def random_resized_crop_flip(images: Tensor, generator: Generator | None = None, padding: int = 4) -> Tensor:
    """Pad with black, cut out a random box, resize it to the old size, mirror half of the images.

    ``images`` is uint8 [N, C, H, W]; the result is float32 of that shape, still on the scale 0..255. Everything is one
    bilinear sampling, whose zero padding stands for the black border. Samples are held inside their box, so the result
    is that of cropping first and resizing then, but for the smoothing that Pillow adds where a box is larger than the
    image (at most (H + 2 padding) / H times).
    """
    count, _, height, width = images.shape
    boxes = draw_boxes(count, height + 2 * padding, width + 2 * padding, images.device, generator)
    rows = _sampled_lines(boxes.top, boxes.height, height) - padding
    columns = _sampled_lines(boxes.left, boxes.width, width) - padding
    columns = torch.where(_coin(images, generator)[:, None], columns.flip(1), columns)
    shape = (count, height, width)
    grid = torch.stack(
        ((columns * (2 / width) - 1)[:, None, :].expand(shape), (rows * (2 / height) - 1)[:, :, None].expand(shape)),
        dim=-1,
    )
    return F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def random_crop(images: Tensor, generator: Generator | None = None, *, padding: int, flip: bool) -> Tensor:
    """Pad with black, cut out a random window of the old size, mirror half of the images if ``flip``.

    Takes and gives uint8 [N, C, H, W].
    """
    count, channels, height, width = images.shape
    device = images.device
    top, left = torch.randint(2 * padding + 1, (2, count, 1), device=device, generator=generator)
    rows = top + torch.arange(height, device=device)
    columns = left + torch.arange(width, device=device)
    if flip:
        columns = torch.where(_coin(images, generator)[:, None], columns.flip(1), columns)
    batch = torch.arange(count, device=device)[:, None, None, None]
    channel = torch.arange(channels, device=device)[:, None, None]
    return F.pad(images, [padding] * 4)[batch, channel, rows[:, None, :, None], columns[:, None, None, :]]


def _uniform(
    shape: tuple[int, ...], low: float, high: float, device: torch.device, generator: Generator | None
) -> Tensor:
    return torch.rand(shape, device=device, generator=generator) * (high - low) + low


def _offset(room: Tensor, generator: Generator | None) -> Tensor:
    """A uniform whole number in 0..room for every entry of ``room``."""
    share = torch.rand(room.shape, device=room.device, generator=generator)
    # share * (room + 1) can round up to room + 1.
    return (share * (room + 1)).floor().minimum(room)


def _coin(images: Tensor, generator: Generator | None) -> Tensor:
    return torch.rand(len(images), device=images.device, generator=generator) < 0.5


def _sampled_lines(start: Tensor, extent: Tensor, count: int) -> Tensor:
    """Where ``count`` evenly spread samples of each interval lie, [N, count], at least half a pixel inside its ends."""
    centres = (torch.arange(count, device=start.device) + 0.5) / count
    start, extent = start[:, None], extent[:, None]
    return (start + centres * extent).maximum(start + 0.5).minimum(start + extent - 0.5)
