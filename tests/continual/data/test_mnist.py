from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from slimkern.continual.data import CorruptDataError, MissingDataError, load

datasets = pytest.importorskip("torchvision.datasets")
FOLDERS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}


def write_idx(path: Path, shape: tuple[int, ...]) -> None:
    """An idx file of zeros, but for the last one, which is 7."""
    size = 1
    for count in shape:
        size *= count
    header = struct.pack(f">I{len(shape)}I", 0x800 + len(shape), *shape)
    with path.open("wb") as file:
        file.write(header)
        file.seek(len(header) + size - 1)
        file.write(b"\x07")


@pytest.fixture(params=FOLDERS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def raw(tmp_path: Path, name: str) -> Path:
    """The raw folder of a data set of black images."""
    folder = tmp_path / FOLDERS[name] / "raw"
    folder.mkdir(parents=True)
    for part, count in (("train", 60000), ("t10k", 10000)):
        write_idx(folder / f"{part}-images-idx3-ubyte", (count, 28, 28))
        write_idx(folder / f"{part}-labels-idx1-ubyte", (count,))
    return folder


def test_raw_files_are_read(raw: Path, name: str, tmp_path: Path) -> None:
    data = load(name, tmp_path)
    assert data.name == name and len(data.classes) == 10 and data.augmentation == "shift"
    assert data.train.images.shape == (60000, 1, 28, 28) and data.test.images.shape == (10000, 1, 28, 28)
    for part in (data.train, data.test):
        assert part.images[-1, 0, 27, 27] == 7 and part.images.sum() == 7
        assert part.labels[-1] == 7 and part.labels.sum() == 7


def test_a_missing_file_is_named(raw: Path, name: str, tmp_path: Path) -> None:
    (raw / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(MissingDataError, match=f"{name} was not found: .*t10k-labels-idx1-ubyte is missing; fetch it"):
        load(name, tmp_path)


@pytest.mark.parametrize("file", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
@pytest.mark.parametrize("size", [0, 3, 5000], ids=["empty", "no header", "truncated"])
def test_a_damaged_file_is_refused(raw: Path, name: str, tmp_path: Path, file: str, size: int) -> None:
    os.truncate(raw / file, size)
    with pytest.raises(CorruptDataError, match=f"{FOLDERS[name]}/raw is truncated or corrupt"):
        load(name, tmp_path)


def test_images_of_another_size_are_refused(raw: Path, name: str, tmp_path: Path) -> None:
    write_idx(raw / "train-images-idx3-ubyte", (60000, 27, 28))
    with pytest.raises(CorruptDataError, match=r"are \[60000, 1, 27, 28\], not \[60000, 1, 28, 28\]"):
        load(name, tmp_path)


def test_a_failed_download_says_why(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(self: object) -> None:
        raise RuntimeError("no route to host")

    monkeypatch.setattr(datasets.MNIST, "download", offline)
    with pytest.raises(MissingDataError, match=f"{name} could not be fetched .*no route to host"):
        load(name, tmp_path, download=True)


@pytest.mark.skipif("SLIMKERN_DATA" not in os.environ, reason="SLIMKERN_DATA names no folder of data sets")
def test_the_official_files() -> None:
    root = Path(os.environ["SLIMKERN_DATA"])
    if not (root / "MNIST").is_dir():
        pytest.skip("MNIST is not there")
    data = load("mnist", root)
    assert data.train.labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    pixels = data.train.images / 255
    assert (pixels.mean().item(), pixels.std().item()) == pytest.approx((data.mean[0], data.std[0]), abs=1e-4)
