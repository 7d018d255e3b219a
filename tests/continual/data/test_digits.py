from __future__ import annotations

import pytest
import torch

from slimkern.continual.data import Dataset, load


@pytest.fixture(scope="module")
def digits() -> Dataset:
    pytest.importorskip("sklearn")
    return load("digits")


def test_every_image_is_used_once(digits: Dataset) -> None:
    from sklearn.datasets import load_digits

    published = torch.as_tensor(load_digits(return_X_y=True)[0])
    read = torch.cat((digits.train.images, digits.test.images)).flatten(1)
    assert sorted(read.tolist()) == sorted((published * 255 / 16).round().tolist())


def test_a_fifth_of_every_class_is_for_testing(digits: Dataset) -> None:
    train, test = (torch.bincount(part.labels, minlength=10) for part in (digits.train, digits.test))
    assert torch.equal(test, (train + test) // 5)


def test_labels_belong_to_their_images(digits: Dataset) -> None:
    centres = torch.stack([digits.train.images[digits.train.labels == label].float().mean(0) for label in range(10)])
    distances = torch.cdist(digits.test.images.float().flatten(1), centres.flatten(1))
    assert (distances.argmin(dim=1) == digits.test.labels).float().mean() > 0.85


def test_black_is_0_and_white_is_255(digits: Dataset) -> None:
    assert (int(digits.train.images.min()), int(digits.train.images.max())) == (0, 255)


def test_mean_and_std_are_those_of_the_training_images(digits: Dataset) -> None:
    pixels = digits.train.images.double() / 255
    assert digits.mean == pytest.approx((pixels.mean().item(),), rel=1e-5)
    assert digits.std == pytest.approx((pixels.std().item(),), rel=1e-5)


def test_the_split_is_fixed(digits: Dataset) -> None:
    assert torch.equal(load("digits").test.images, digits.test.images)
