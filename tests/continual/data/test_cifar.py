from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from slimkern.continual.data import CorruptDataError, MissingDataError, load

datasets = pytest.importorskip("torchvision.datasets")
FOLDER = "cifar-100-python"


def pixels(count: int) -> np.ndarray:
    return np.arange(count * 3072, dtype=np.int64).reshape(count, 3072).astype(np.uint8)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with a small CIFAR-100 that torchvision takes for the published one."""
    contents = {
        "train": {"data": pixels(4), "fine_labels": [1, 0, 1, 0]},
        "test": {"data": pixels(2), "fine_labels": [0, 1]},
        "meta": {"fine_label_names": ["apple", "bear"]},
    }
    folder = tmp_path / FOLDER
    folder.mkdir()
    md5 = {}
    for name, content in contents.items():
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        md5[name] = hashlib.md5(data).hexdigest()
    monkeypatch.setattr(datasets.CIFAR100, "train_list", [["train", md5["train"]]])
    monkeypatch.setattr(datasets.CIFAR100, "test_list", [["test", md5["test"]]])
    monkeypatch.setattr(datasets.CIFAR100, "meta", {**datasets.CIFAR100.meta, "md5": md5["meta"]})
    return tmp_path


def test_pixels_and_labels_are_those_of_the_files(root: Path) -> None:
    read = load("cifar100", root)
    assert torch.equal(read.train.images, torch.from_numpy(pixels(4)).reshape(4, 3, 32, 32))
    assert read.train.labels.tolist() == [1, 0, 1, 0]
    assert read.test.labels.tolist() == [0, 1]
    assert read.classes == ("apple", "bear")
    assert read.mean == (0.5071, 0.4866, 0.4409)
    assert read.std == (0.2009, 0.1984, 0.2023)


def test_a_missing_folder_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=f"no folder .*{FOLDER}; .*--download.*cifar-100-python.tar.gz"):
        load("cifar100", tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["train", "test", "meta"])
def test_a_missing_file_is_named(root: Path, name: str) -> None:
    (root / FOLDER / name).unlink()
    with pytest.raises(MissingDataError, match=f"incomplete: .*{FOLDER}/{name} is missing"):
        load("cifar100", root)


@pytest.mark.parametrize("name", ["train", "test", "meta"])
def test_a_truncated_file_is_named(root: Path, name: str) -> None:
    path = root / FOLDER / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptDataError, match=f"{FOLDER}/{name} is truncated or corrupt.*delete"):
        load("cifar100", root)


def test_a_failed_download_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(self: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(datasets.CIFAR10, "download", offline)
    with pytest.raises(MissingDataError, match=r"cifar10 .*fetching failed: no route to host.*cifar-10-batches-py/"):
        load("cifar10", tmp_path, download=True)
