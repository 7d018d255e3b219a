from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from slimkern.experiments.atomic import StorageError, append_bytes, make_folder, write_bytes


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file can grow beyond this size, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def test_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for data in (b"first, and longer", memoryview(b"second")):
        write_bytes(path, data)
        assert path.read_bytes() == bytes(data)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("size", [2_000, 2_000_000], ids=["buffered", "beyond-the-buffer"])
def test_full_disk_keeps_the_old_file(tmp_path: Path, size: int) -> None:
    path = tmp_path / "last.pt"
    write_bytes(path, b"old")
    with (
        room_for(1_000),
        pytest.raises(StorageError, match=rf"last\.pt \({size} bytes\): .+; the earlier file is kept"),
    ):
        write_bytes(path, b"n" * size)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.pt"]


def test_full_disk_without_an_old_file_leaves_nothing(tmp_path: Path) -> None:
    with room_for(1_000), pytest.raises(StorageError, match="there is no earlier file"):
        write_bytes(tmp_path / "last.pt", b"n" * 2_000)
    assert list(tmp_path.iterdir()) == []


def test_full_disk_adds_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    append_bytes(path, b"a" * 600)
    with room_for(1_000), pytest.raises(StorageError, match=r"could not add 600 bytes to .*events\.jsonl"):
        append_bytes(path, b"b" * 600)
    assert path.read_bytes() == b"a" * 600


def test_a_folder_is_made_with_those_above_it_and_may_be_there(tmp_path: Path) -> None:
    for _ in range(2):
        make_folder(tmp_path / "new" / "one")
    assert (tmp_path / "new" / "one").is_dir()


@pytest.mark.parametrize("name", ["file", "file/within"])
def test_a_folder_that_can_not_be_made_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=rf"could not make the folder .*{name}: "):
        make_folder(tmp_path / name)


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"absent/file.*No such file"):
        write_bytes(tmp_path / "absent" / "file", b"data")
