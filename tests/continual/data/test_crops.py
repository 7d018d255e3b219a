from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from slimkern.continual.data.crops import Boxes, draw_boxes, random_crop, random_resized_crop_flip

CPU = torch.device("cpu")
MANY = 20_000


def noise(count: int, channels: int = 3, height: int = 8, width: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, 256, (count, channels, height, width), dtype=torch.uint8, generator=generator)


@given(
    height=st.integers(1, 48),
    width=st.integers(1, 48),
    seed=st.integers(0, 2**31),
    smallest=st.floats(0.01, 1),
)
def test_boxes_are_whole_pixels_inside_the_image(height: int, width: int, seed: int, smallest: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    boxes = draw_boxes(64, height, width, CPU, generator, scale=(smallest, 1.0))
    assert all(torch.equal(field, field.round()) for field in boxes)
    for start, extent, size in ((boxes.top, boxes.height, height), (boxes.left, boxes.width, width)):
        assert (start >= 0).all()
        assert (extent >= 1).all()
        assert (start + extent <= size).all()


def torchvision_boxes(count: int, side: int) -> Boxes:
    transforms = pytest.importorskip("torchvision.transforms")
    image = torch.empty(1, side, side)
    drawn = [transforms.RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(count)]
    return Boxes(*torch.tensor(drawn, dtype=torch.float32).unbind(1))


def test_boxes_are_distributed_as_torchvision_draws_them() -> None:
    torch.manual_seed(0)
    ours, theirs = draw_boxes(MANY, 40, 40, CPU), torchvision_boxes(MANY // 4, 40)
    quantiles = torch.linspace(0.05, 0.95, 10)
    for measure in (
        lambda boxes: boxes.height * boxes.width / 1600,
        lambda boxes: (boxes.width / boxes.height).log(),
        lambda boxes: boxes.top / 40,
        lambda boxes: boxes.left / 40,
    ):
        assert torch.allclose(measure(ours).quantile(quantiles), measure(theirs).quantile(quantiles), atol=0.04)


def test_where_no_draw_fits_the_largest_allowed_box_is_taken() -> None:
    boxes = draw_boxes(8, 40, 10, CPU, scale=(0.9, 1.0))
    assert boxes.width.eq(10).all()
    assert boxes.height.eq(13).all()


def test_a_resized_crop_is_torchvisions_of_one_of_the_boxes() -> None:
    functional = pytest.importorskip("torchvision.transforms.functional")
    images = noise(16)
    boxes = draw_boxes(16, 16, 16, CPU, torch.Generator().manual_seed(3))
    ours = random_resized_crop_flip(images, torch.Generator().manual_seed(3))
    padded = F.pad(images.float(), [4] * 4)
    flips = 0
    for image, result, *box in zip(padded, ours, *boxes, strict=True):
        expected = functional.resized_crop(image, *(int(value) for value in box), [8, 8], antialias=False)
        straight, mirrored = (
            torch.allclose(result, expected, atol=1e-2),
            torch.allclose(result, expected.flip(2), atol=1e-2),
        )
        assert straight or mirrored
        flips += mirrored
    assert 0 < flips < 16


def windows(image: Tensor, padding: int, flip: bool) -> list[Tensor]:
    _, height, width = image.shape
    padded = F.pad(image, [padding] * 4)
    straight = [
        padded[:, top : top + height, left : left + width]
        for top in range(2 * padding + 1)
        for left in range(2 * padding + 1)
    ]
    return straight + [window.flip(2) for window in straight] if flip else straight


@pytest.mark.parametrize(("padding", "flip"), [(4, True), (1, False)], ids=["crop-flip", "shift"])
def test_a_random_crop_draws_every_window_alike_and_nothing_else(padding: int, flip: bool) -> None:
    image = noise(1, height=6, width=5)[0]
    crops = random_crop(image.expand(4000, -1, -1, -1), torch.Generator().manual_seed(0), padding=padding, flip=flip)
    possible = torch.stack(windows(image, padding, flip))
    matches = (crops[:, None] == possible[None]).flatten(2).all(dim=2)
    assert crops.dtype == torch.uint8
    assert matches.sum(dim=1).eq(1).all()
    expected = 4000 / len(possible)
    assert (matches.sum(dim=0) - expected).abs().max() < 5 * expected**0.5
