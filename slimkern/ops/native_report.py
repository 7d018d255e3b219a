"""What the build noted of the native core: how its parts were built, and why others were left out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from slimkern.shared_objects import BUILD_MODULE, PACKAGE, build_module

FILE = PACKAGE / "build_report.json"
"""Where the build leaves its report if it could compile no module that tells it."""

PARTS = ("cpu", "cuda")


@dataclass(frozen=True)
class BuiltPart:
    """How one library was built: for which instruction sets or architectures, by which compiler, with which flags."""

    targets: list[str]
    compiler: str
    flags: str


@dataclass(frozen=True)
class BuildReport:
    """The build's report, as far as it can be read.

    Attributes:
        parts: those that were built.
        left_out: the others, and why.
        torch: the version that they were built against.
        problem: why what is on record can't be read; None if it can, or if there is none.
    """

    parts: dict[str, BuiltPart] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    torch: str | None = None
    problem: str | None = None


def read_report() -> BuildReport:
    """Read the file beside the package, or ask the compiled module; empty if there is neither."""
    if FILE.is_file():
        try:
            return _parsed(json.loads(FILE.read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError) as error:
            return BuildReport(problem=f"{FILE.name} is damaged: {error}")
    try:
        module: Any = build_module()
    except ImportError as error:
        return BuildReport(problem=f"{BUILD_MODULE} can't be loaded: {error}")
    if module is None:
        return BuildReport()
    if missing := [name for name in ("report", "plan_tiles") if not hasattr(module, name)]:
        return BuildReport(problem=f"{BUILD_MODULE} is stale, it has no {' and no '.join(missing)}")
    try:
        return _parsed(module.report())
    except ValueError as error:
        return BuildReport(problem=f"the report of {BUILD_MODULE} is damaged: {error}")


def _parsed(told: Any) -> BuildReport:
    if not isinstance(told, Mapping) or not isinstance(told.get("left out"), Mapping):
        raise ValueError("it doesn't say what was left out")
    if not all(map(_is_text, told["left out"].values())):
        raise ValueError("it doesn't say why a part was left out")
    version = told.get("built against torch")
    if not isinstance(version, str | None):
        raise ValueError("it doesn't say against which torch its parts were built")
    parts = {name: _part(told[name]) for name in PARTS if name in told}
    return BuildReport(parts, dict(told["left out"]), version)


def _part(told: Any) -> BuiltPart:
    try:
        part = BuiltPart(told.get("architectures") or told["instruction sets"], told["compiler"], told["flags"])
    except (AttributeError, KeyError, TypeError):
        part = None
    if not (part and isinstance(part.targets, list) and all(map(_is_text, [*part.targets, part.compiler, part.flags]))):
        raise ValueError("it doesn't say how its parts were built")
    return part


def _is_text(told: Any) -> bool:
    return isinstance(told, str)
