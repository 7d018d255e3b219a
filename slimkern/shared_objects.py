"""The compiled module and libraries that lie in this package: which are its own, and whether they are whole."""

from __future__ import annotations

import struct
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

PACKAGE = Path(__file__).parent
BUILD_MODULE = "slimkern._build"

_ELF_64 = {b"\x7fELF\x02\x01": "<", b"\x7fELF\x02\x02": ">"}
_HEADER_BYTES = 64


def why_cut_short(path: Path) -> str | None:
    """Why a shared object must not be loaded: a copy that was cut short kills the process which maps it.

    Linkers write the table of section headers last; the header at the front says where it ends. None if that lies
    within the file, and for files that aren't 64-bit ELF or have no such table: the loader has words for those.

    Raises:
        OSError: the file can't be read.
    """
    with path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
    order = _ELF_64.get(header[:6])
    if order is None or len(header) < _HEADER_BYTES:
        return None
    (table,) = struct.unpack_from(f"{order}Q", header, 0x28)
    entry_bytes, entries = struct.unpack_from(f"{order}HH", header, 0x3A)
    wanted, size = table + entry_bytes * entries, path.stat().st_size
    return f"{path.name} is cut short: {size} bytes, its header wants {wanted}" if wanted > size else None


def build_module() -> ModuleType | None:
    """The compiled module of this package; None if it has none, whatever lies where another copy is installed.

    Raises:
        ImportError: it can't be loaded.
    """
    spec = PathFinder.find_spec(BUILD_MODULE, [str(PACKAGE)])
    if spec is None or spec.origin is None:
        return None
    try:
        reason = why_cut_short(Path(spec.origin))
    except OSError as error:
        raise ImportError(str(error)) from error
    if reason:
        raise ImportError(reason)
    return import_module(BUILD_MODULE)
