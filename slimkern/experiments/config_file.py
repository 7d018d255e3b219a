"""The configuration of a run as it lies in its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from slimkern.experiments.atomic import write_bytes

FORMAT = 1


class RunFolderError(RuntimeError):
    """A folder can't be used for a run; the message says which, why and what to do."""


class FolderInUseError(RunFolderError):
    """Another process trains in the folder."""


def write_config(path: Path, config: dict[str, Any]) -> None:
    """Stores the configuration with the version of the format; raises StorageError if that fails."""
    write_bytes(path, json.dumps({"format": FORMAT, "config": config}, indent=2).encode())


def read_config(path: Path) -> dict[str, Any]:
    """The configuration stored there; raises RunFolderError if it is damaged or of another format version."""
    try:
        content = json.loads(path.read_bytes())
        version, config = content["format"], dict(content["config"])
    except (ValueError, KeyError, TypeError) as cause:
        raise RunFolderError(f"{path} isn't the configuration of a run: {cause!r}") from cause
    if version != FORMAT:
        raise RunFolderError(f"{path} has format version {version}; this slimkern reads version {FORMAT}")
    return config


def refuse_difference(path: Path, given: dict[str, Any], found: dict[str, Any]) -> None:
    """Raises RunFolderError, naming the keys that differ, unless both configurations are the same."""

    def shown(config: dict[str, Any], key: str) -> str:
        return repr(config[key]) if key in config else "nothing"

    nothing = object()
    differing = [key for key in sorted({*given, *found}) if given.get(key, nothing) != found.get(key, nothing)]
    if differing:
        lines = [f"  {key}: given {shown(given, key)}, found {shown(found, key)}" for key in differing]
        raise RunFolderError(
            "\n".join([f"{path} holds a run with another configuration; name another folder for this one:", *lines])
        )
