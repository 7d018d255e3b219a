"""What the build noted of the native core: how its parts were built, and why others were left out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[1] / "build_report.json"
"""Where the build leaves its report if it could compile no module that tells it."""

MODULE = "slimkern._build"
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
        except (OSError, ValueError) as error:
            return BuildReport(problem=f"{FILE.name} is damaged: {error}")
    try:
        module: Any = import_module(MODULE)
    except ModuleNotFoundError:
        return BuildReport()
    except ImportError as error:
        return BuildReport(problem=f"{MODULE} can't be loaded: {error}")
    if missing := [name for name in ("report", "plan_tiles") if not hasattr(module, name)]:
        return BuildReport(problem=f"{MODULE} is stale, it has no {' and no '.join(missing)}")
    try:
        return _parsed(module.report())
    except ValueError as error:
        return BuildReport(problem=f"the report of {MODULE} is damaged: {error}")


def _parsed(told: Any) -> BuildReport:
    if not isinstance(told, Mapping) or not isinstance(told.get("left out"), Mapping):
        raise ValueError("it doesn't say what was left out")
    try:
        parts = {
            name: BuiltPart(
                list(part.get("architectures") or part["instruction sets"]), part["compiler"], part["flags"]
            )
            for name, part in told.items()
            if name in PARTS
        }
    except (AttributeError, KeyError, TypeError):
        raise ValueError("it doesn't say how its parts were built") from None
    return BuildReport(parts, dict(told["left out"]), told.get("built against torch"))
