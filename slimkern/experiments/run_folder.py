"""The folder of one run: the truth about it, which every report is made from.

config.json    the resolved configuration and the version of this format
events.jsonl   what happened and when, one JSON object a line, only ever added to
counts.json    raw counts of correct answers after each task
last.pt        the newest checkpoint
lock           held by the process that trains in the folder, and naming it
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from slimkern.continual.metrics import Counts
from slimkern.experiments.atomic import append_bytes, write_bytes
from slimkern.experiments.config_file import (
    FolderInUseError,
    RunFolderError,
    read_config,
    refuse_difference,
    write_config,
)

CONFIG, EVENTS, COUNTS, CHECKPOINT, LOCK = "config.json", "events.jsonl", "counts.json", "last.pt", "lock"


class RunFolder:
    """A run on disk. Made by `RunFolder.open` for training and by `RunFolder.read` for reports.

    Attributes:
        path: the folder.
        config: the resolved configuration, as JSON gives it back (lists, no tuples).
    """

    def __init__(self, path: Path, config: dict[str, Any], lock: int | None = None) -> None:
        self.path = path
        self.config = config
        self._lock = lock

    @classmethod
    def open(cls, path: Path | str, config: dict[str, Any]) -> RunFolder:
        """Creates the folder, or reopens one with the same configuration, and locks it until `close`.

        The lock ends with the process, however that dies. Use it as a context manager to release it earlier.

        Raises:
            RunFolderError: if the folder holds another configuration or something that is no run, can't be written, or
                has another format version.
            FolderInUseError: if another process trains in it.
            StorageError: if the configuration can't be stored.
            TypeError, ValueError: if the configuration is nothing that JSON can hold.
        """
        path = Path(path)
        config = json.loads(json.dumps(config, allow_nan=False))
        try:
            path.mkdir(parents=True, exist_ok=True)
            _refuse_foreign(path)
            lock = _acquire(path / LOCK)
        except OSError as cause:
            raise RunFolderError(f"{path} can't be used as a run folder: {cause.strerror}") from cause
        folder = cls(path, config, lock)
        try:
            folder._claim()
        except BaseException:
            folder.close()
            raise
        return folder

    @classmethod
    def read(cls, path: Path | str) -> RunFolder:
        """The folder of a run, for reading only; the run may still be going on.

        Raises:
            RunFolderError: if it isn't a run folder, or one of another format version.
        """
        path = Path(path)
        if not (path / CONFIG).is_file():
            raise RunFolderError(f"{path} is not a run folder: it has no {CONFIG}")
        return cls(path, read_config(path / CONFIG))

    def close(self) -> None:
        """Releases the lock. Nothing can be written any more."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def append_event(self, kind: str, **fields: Any) -> None:
        """Adds one event with the present time (UTC, ISO 8601).

        Raises:
            StorageError: if it can't be stored; earlier events are kept.
        """
        event = {"time": datetime.now(UTC).isoformat(), "kind": kind, **fields}
        append_bytes(self._for_writing(EVENTS), json.dumps(event).encode() + b"\n")

    def events(self) -> list[dict[str, Any]]:
        """All events in the order they happened; lines cut short by a crash are left out."""
        path = self.path / EVENTS
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
        return [event for line in lines if isinstance(event := _parsed_or_none(line), dict)]

    def save_counts(self, counts: Counts) -> None:
        """Stores the counts in place of the earlier ones; raises StorageError if that fails."""
        write_bytes(self._for_writing(COUNTS), json.dumps(counts.to_json()).encode())

    def drop_counts(self) -> None:
        """Forget counts of a run that starts again because its checkpoint was deleted."""
        self._for_writing(COUNTS).unlink(missing_ok=True)

    def counts(self) -> Counts | None:
        """The newest counts, or None before the first task is finished.

        Raises:
            RunFolderError: if the file is damaged.
        """
        path = self.path / COUNTS
        if not path.exists():
            return None
        try:
            return Counts.from_json(json.loads(path.read_bytes()))
        except ValueError as cause:
            raise RunFolderError(f"{path} is damaged: {cause}") from cause

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Stores the state in place of the earlier checkpoint; raises StorageError if that fails."""
        path = self._for_writing(CHECKPOINT)
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_bytes(path, buffer.getbuffer())

    def load_checkpoint(self, map_location: torch.device | str | None = None) -> dict[str, Any] | None:
        """The newest checkpoint (tensors and plain values only), or None before the first.

        Raises:
            RunFolderError: if the file can't be read; the message says how to go on.
        """
        path = self.path / CHECKPOINT
        if not path.exists():
            return None
        try:
            state = torch.load(path, map_location=map_location, weights_only=True)
        # Damaged files end torch.load in a dozen ways, from EOFError to KeyError.
        except Exception as cause:
            reason = f"{type(cause).__name__}: {str(cause).partition(chr(10))[0]}"
            raise RunFolderError(
                f"{path} can't be read ({reason}). If it is damaged, delete {CHECKPOINT} to start the run again"
            ) from cause
        if not isinstance(state, dict):
            raise RunFolderError(f"{path} holds a {type(state).__name__}, no checkpoint; delete it to start again")
        return state

    def _for_writing(self, name: str) -> Path:
        if self._lock is None:
            raise RunFolderError(f"{self.path} is open for reading; use RunFolder.open to write {name}")
        return self.path / name

    def _claim(self) -> None:
        """Stores the configuration or compares it with the one found; the lock is held by now."""
        file = self.path / CONFIG
        if file.exists():
            refuse_difference(self.path, self.config, read_config(file))
        else:
            write_config(file, self.config)
        events = self.path / EVENTS
        if events.exists() and events.read_bytes()[-1:] not in (b"", b"\n"):
            append_bytes(events, b"\n")


def _refuse_foreign(path: Path) -> None:
    # A run killed at its very start leaves these and no configuration yet.
    ours = {LOCK, CONFIG, f"{CONFIG}.partial"}
    others = sorted({entry.name for entry in path.iterdir()} - ours)
    if others and not (path / CONFIG).exists():
        raise RunFolderError(f"{path} is no run folder and not empty (it holds {others[0]!r}); name a new one")


def _acquire(path: Path) -> int:
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(lock, 1000, 0).decode(errors="replace") or "unknown"
        os.close(lock)
        raise FolderInUseError(
            f"{path.parent} is in use: another process trains in it ({holder}); wait or name another folder"
        ) from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
    return lock


def _parsed_or_none(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None
