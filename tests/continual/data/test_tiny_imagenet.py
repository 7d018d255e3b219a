from __future__ import annotations

from pathlib import Path

import pytest

from slimkern.continual.data import CorruptDataError, Dataset, MissingDataError, load

Image = pytest.importorskip("PIL.Image")

pytestmark = pytest.mark.filterwarnings("ignore:.*do not have the published")

WNIDS = ("n02", "n01", "n03")
GREY = (("n02", 10), ("n01", 100), ("n03", 200))


def write_image(path: Path, brightness: int, side: int = 64, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = brightness if mode == "L" else (brightness, brightness, 255 - brightness)
    Image.new(mode, (side, side), colour).save(path, "JPEG", quality=95)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three classes with two training images, the second greyscale, and one test image each."""
    folder = tmp_path / "tiny-imagenet-200"
    annotations = []
    for wnid, brightness in GREY:
        images = folder / "train" / wnid / "images"
        write_image(images / f"{wnid}_0.JPEG", brightness)
        write_image(images / f"{wnid}_1.JPEG", brightness, mode="L")
        write_image(folder / "val" / "images" / f"val_{wnid}.JPEG", brightness)
        annotations.append(f"val_{wnid}.JPEG\t{wnid}\t0\t0\t62\t62\n")
    (folder / "wnids.txt").write_text("\n".join(WNIDS))
    (folder / "words.txt").write_text("n01\tgoldfish, Carassius auratus\nn02\tspider\nn99\tunused\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(reversed(annotations)))
    return tmp_path


@pytest.fixture
def folder(root: Path) -> Path:
    return root / "tiny-imagenet-200"


@pytest.fixture
def tiny(root: Path) -> Dataset:
    return load("tiny-imagenet", root)


def test_labels_follow_wnids_and_names_follow_words(tiny: Dataset) -> None:
    assert tiny.classes == ("spider", "goldfish, Carassius auratus", "n03")
    assert tiny.train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert tiny.test.labels.tolist() == [2, 1, 0]


@pytest.mark.parametrize("part", ["train", "test"])
def test_images_belong_to_their_labels(tiny: Dataset, part: str) -> None:
    images = getattr(tiny, part)
    expected = [GREY[label][1] for label in images.labels.tolist()]
    assert images.images.shape[1:] == (3, 64, 64)
    assert images.images[:, 0, 32, 32].tolist() == pytest.approx(expected, abs=3)


def test_greyscale_becomes_rgb(tiny: Dataset) -> None:
    assert (tiny.train.images[1] == tiny.train.images[1, :1]).all()
    assert not (tiny.train.images[0] == tiny.train.images[0, :1]).all()


def test_other_counts_than_published_are_told(root: Path) -> None:
    with pytest.warns(UserWarning, match="3 classes do not have the published 500 images, first n02 with 2"):
        load("tiny-imagenet", root)


@pytest.mark.parametrize("name", ["wnids.txt", "words.txt", "val/val_annotations.txt"])
def test_a_missing_list_says_the_layout(root: Path, folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(MissingDataError, match=rf"{name} is missing; unpack tiny-imagenet-200\.zip"):
        load("tiny-imagenet", root)


def test_a_class_without_images_is_named(root: Path, folder: Path) -> None:
    for path in (folder / "train" / "n01" / "images").iterdir():
        path.unlink()
    with pytest.raises(MissingDataError, match="no image of class n01"):
        load("tiny-imagenet", root)


def test_a_truncated_image_is_named(root: Path, folder: Path) -> None:
    path = folder / "train" / "n03" / "images" / "n03_1.JPEG"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(CorruptDataError, match=r"n03_1\.JPEG cannot be decoded"):
        load("tiny-imagenet", root)


def test_an_annotated_image_that_is_missing_is_named(root: Path, folder: Path) -> None:
    (folder / "val" / "images" / "val_n01.JPEG").unlink()
    with pytest.raises(CorruptDataError, match=r"val_n01\.JPEG cannot be decoded"):
        load("tiny-imagenet", root)


def test_an_image_of_another_size_is_named(root: Path, folder: Path) -> None:
    write_image(folder / "val" / "images" / "val_n02.JPEG", 10, side=32)
    with pytest.raises(CorruptDataError, match=r"val_n02\.JPEG is 32x32, not 64x64"):
        load("tiny-imagenet", root)


def test_an_unknown_class_in_the_annotations_is_named(root: Path, folder: Path) -> None:
    with (folder / "val" / "val_annotations.txt").open("a") as annotations:
        annotations.write("val_n77.JPEG\tn77\t0\t0\t1\t1\n")
    with pytest.raises(CorruptDataError, match="line 4: 'n77'"):
        load("tiny-imagenet", root)
