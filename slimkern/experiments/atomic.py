"""Files that are written complete or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


class StorageError(RuntimeError):
    """A file or folder could not be written; the message names it and the cause."""


def make_folder(path: Path) -> None:
    """Makes the folder, and those above it, unless it is there.

    Raises:
        StorageError: it can't be made, say because there is a file of this name.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as cause:
        raise StorageError(f"could not make the folder {path}: {cause.strerror}") from cause


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Writes the bytes beside `path`, sees them to the disk and renames them into place.

    Whoever reads `path` finds the old content or the new one, after a crash as well.

    Raises:
        StorageError: if the bytes can't be stored, say on a full disk. The old file stays as it was.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as cause:
        with suppress(OSError):
            partial.unlink()
        raise StorageError(f"could not write {path} ({len(data)} bytes): {cause.strerror}; {_kept(path)}") from cause
    _sync_directory(path.parent)


def append_bytes(path: Path, data: bytes) -> None:
    """Adds the bytes to the end of `path` and sees them to the disk.

    Raises:
        StorageError: if the bytes can't be stored. What the file held before stays.
    """
    before = path.stat().st_size if path.exists() else 0
    try:
        with path.open("ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as cause:
        with suppress(OSError):
            os.truncate(path, before)
        raise StorageError(f"could not add {len(data)} bytes to {path}: {cause.strerror}; {_kept(path)}") from cause


def _kept(path: Path) -> str:
    return "the earlier file is kept" if path.exists() else "there is no earlier file"


def _sync_directory(path: Path) -> None:
    # Some network file systems refuse this; the file itself is safe by then, only its new name might be lost.
    with suppress(OSError):
        directory = os.open(path, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
