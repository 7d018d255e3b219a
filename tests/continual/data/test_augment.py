from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from slimkern.continual.data import AUGMENTATIONS, Augmentation

MEAN, STD = (0.5, 0.25, 0.125), (0.25, 0.5, 0.125)
RANDOM = [name for name in AUGMENTATIONS if name != "none"]
FLIPPING = ["crop-resize", "crop-flip", "crop-flip-jitter"]


def named(name: str) -> Augmentation:
    return Augmentation.named(name, MEAN, STD)


@pytest.fixture
def images() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (6, 3, 10, 8), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("count", [0, 6])
def test_shape_is_kept_and_dtype_is_float32(name: str, count: int, images: Tensor) -> None:
    result = named(name)(images[:count])
    assert (result.shape, result.dtype) == (images[:count].shape, torch.float32)


def test_none_is_exactly_normalising(images: Tensor) -> None:
    none = named("none")
    per_channel = [(images[:, c].double() / 255 - MEAN[c]) / STD[c] for c in range(3)]
    assert torch.allclose(none(images).double(), torch.stack(per_channel, dim=1), atol=1e-5)
    assert torch.equal(none(images), none.normalise(images))


@pytest.mark.parametrize("name", RANDOM)
def test_evaluation_sees_the_whole_image_unchanged(name: str, images: Tensor) -> None:
    assert torch.equal(named(name).normalise(images), named("none")(images))


@pytest.mark.parametrize("name", RANDOM)
def test_every_image_is_drawn_for_itself(name: str, images: Tensor) -> None:
    results = named(name)(images[:1].expand(64, -1, -1, -1), torch.Generator().manual_seed(0))
    assert len(results.unique(dim=0)) > 8


@pytest.mark.parametrize("name", RANDOM)
def test_the_global_seed_decides(name: str, images: Tensor) -> None:
    augment = named(name)
    torch.manual_seed(5)
    first, second = augment(images), augment(images)
    torch.manual_seed(5)
    assert torch.equal(augment(images), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", RANDOM)
def test_a_generator_leaves_the_global_one_alone(name: str, images: Tensor) -> None:
    state = torch.get_rng_state()
    first = named(name)(images, torch.Generator().manual_seed(1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(named(name)(images, torch.Generator().manual_seed(1)), first)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_half_of_the_images_are_mirrored_where_that_is_asked(name: str) -> None:
    rising = torch.arange(0, 256, 8, dtype=torch.uint8).expand(2000, 3, 32, 32)
    result = named(name)(rising, torch.Generator().manual_seed(0))
    slope = result[:, 0, 16, 16] - result[:, 0, 16, 15]
    mirrored = (slope[slope != 0] < 0).float().mean().item()
    assert mirrored == pytest.approx(0.5 if name in FLIPPING else 0, abs=0.05)


def test_jitter_makes_images_brighter_or_darker_by_up_to_a_quarter() -> None:
    grey = torch.full((2000, 3, 12, 12), 100, dtype=torch.uint8)
    result = named("crop-flip-jitter")(grey, torch.Generator().manual_seed(0))
    values = ((result.amax((2, 3)) * torch.tensor(STD) + torch.tensor(MEAN)) * 255).round()
    assert (values == values[:, :1]).all() and len(values[:, 0].unique()) > 40
    assert values.min() == 75 and values.max() == 124 and abs(values.mean() - 99.5) < 1
    white = named("crop-flip-jitter")(torch.full((200, 3, 12, 12), 255, dtype=torch.uint8))
    assert (white.amax((2, 3)) * torch.tensor(STD) + torch.tensor(MEAN)).max() <= 1 + 1e-6


@pytest.mark.parametrize("name", RANDOM)
def test_borders_are_black(name: str) -> None:
    white = torch.full((500, 3, 8, 8), 255, dtype=torch.uint8)
    result = named(name)(white, torch.Generator().manual_seed(0))
    black = torch.tensor([-mean / std for mean, std in zip(MEAN, STD, strict=True)])
    assert torch.allclose(result.amin(dim=(0, 2, 3)), black, atol=1e-5)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_nothing_is_read_back_to_the_host(name: str) -> None:
    augment = named(name)
    with FakeTensorMode(allow_non_fake_inputs=True):
        result = augment(torch.empty(6, 3, 8, 8, dtype=torch.uint8))
    assert result.shape == (6, 3, 8, 8)


@pytest.mark.parametrize(
    "bad",
    [
        torch.zeros(2, 3, 8, 8),
        torch.zeros(3, 8, 8, dtype=torch.uint8),
        torch.zeros(2, 1, 8, 8, dtype=torch.uint8),
    ],
    ids=["float", "one image", "one channel"],
)
def test_other_images_are_refused(bad: Tensor) -> None:
    with pytest.raises(ValueError, match=r"uint8 \[N, 3, H, W\], not"):
        named("crop-flip")(bad)
    with pytest.raises(ValueError, match=r"uint8 \[N, 3, H, W\], not"):
        named("crop-flip").normalise(bad)


@pytest.mark.parametrize(
    ("name", "mean", "std", "message"),
    [
        ("rotate", MEAN, STD, "'rotate'; allowed: crop-resize, crop-flip, crop-flip-jitter, shift, none"),
        ("none", MEAN, STD[:2], "one number per channel"),
        ("none", MEAN, (0.1, 0.0, 0.1), "std above 0"),
    ],
    ids=["name", "length", "zero std"],
)
def test_bad_arguments_are_refused(name: str, mean: tuple[float, ...], std: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Augmentation.named(name, mean, std)
