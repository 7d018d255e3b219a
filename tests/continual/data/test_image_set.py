from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from slimkern.continual.data import Dataset, ImageSet


def numbered(count: int, channels: int = 1) -> ImageSet:
    images = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(count, channels, 2, 2)
    return ImageSet(images, torch.arange(count))


@pytest.mark.parametrize(
    ("images", "labels", "error", "message"),
    [
        (torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64), TypeError, "torch.float32"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2), TypeError, "int64"),
        (torch.zeros(2, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), ValueError, r"\[2, 4, 4\]"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2, 1, dtype=torch.int64), ValueError, r"\[2, 1\]"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), ValueError, "2 images and 3"),
        (
            torch.zeros(2, 1, 4, 4, dtype=torch.uint8),
            torch.zeros(2, dtype=torch.int64, device="meta"),
            ValueError,
            "share a device",
        ),
    ],
    ids=["float images", "float labels", "3-d images", "2-d labels", "lengths", "devices"],
)
def test_bad_tensors_are_refused(
    images: torch.Tensor, labels: torch.Tensor, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ImageSet(images, labels)


def test_select_by_index_keeps_the_index_order() -> None:
    chosen = numbered(5).select(torch.tensor([3, 0]))
    assert chosen.labels.tolist() == [3, 0]
    assert chosen.images[:, 0, 0, 0].tolist() == [3, 0]


def test_select_by_mask_may_leave_nothing() -> None:
    everything = numbered(4)
    assert everything.select(everything.labels > 1).labels.tolist() == [2, 3]
    assert len(everything.select(everything.labels > 9)) == 0


def test_to_moves_images_and_labels() -> None:
    moved = numbered(2).to("meta")
    assert (moved.images.device.type, moved.labels.device.type) == ("meta", "meta")


DATASET = Dataset("three", numbered(3), numbered(3), ("a", "b", "c"), (0.5,), (0.5,), "none")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test": numbered(3, channels=3)}, "share a shape"),
        ({"mean": (0.5, 0.5)}, "one number per channel"),
        ({"classes": ("a", "b")}, r"0\.\.1: got 0\.\.2"),
    ],
    ids=["image shapes", "mean length", "label without a name"],
)
def test_a_dataset_must_fit_together(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(DATASET, **change)
