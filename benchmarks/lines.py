"""Results as lines of JSON, added to files the moment they are known; and files that are replaced at once.

What runs as a step of a campaign says so in its lines. Nothing here needs more than Python.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

STEP = "SLIMKERN_STEP"
"""Environment variable that names the step of a campaign which lines are of."""


def add_line(path: Path, content: Mapping[str, Any]) -> None:
    """Add an object, and the step that it is of within a campaign, to the end of a file."""
    step = {"step": os.environ[STEP]} if STEP in os.environ else {}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({**content, **step}, ensure_ascii=False) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file with one a line; lines that hold none, such as one that was cut short, are left out."""
    lines = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                content = json.loads(line)
            except ValueError:
                continue
            if isinstance(content, dict):
                lines.append(content)
    return lines


def replace(path: Path, text: str) -> None:
    """Write a file at once, so that it holds the old text or the new one."""
    beside = path.with_suffix(".part")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)
