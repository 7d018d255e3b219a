"""What steps of a campaign are, how they ended, and what each of them left in the campaign's folder.

The folder holds few files, as some machines give only a few back: `campaign.json`, which campaign it is;
`journal.jsonl`, how each step ended; `rows.jsonl` and `checks.jsonl`, what it measured and found, as it came;
`log.txt`, what steps printed, and `now-<step>.txt`, what one prints that still runs; the tuner's table; and `page.md`,
written anew after each step.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from lines import read_lines, replace

Status = Literal["passed", "failed", "crashed", "hung", "no time"]
LINES = ("rows.jsonl", "checks.jsonl")


@dataclass(frozen=True)
class Step:
    """A command of a campaign.

    Attributes:
        name: in letters, digits and hyphens.
        what: one line on what it tells.
        command: program and arguments.
        seconds: its limit.
        variables: of its environment, beside the campaign's.
        beside: whether it runs beside the steps after it, as it needs no GPU.
    """

    name: str
    what: str
    command: Sequence[str]
    seconds: float
    variables: Mapping[str, str] = field(default_factory=dict)
    beside: bool = False


@dataclass(frozen=True)
class Ending:
    """How a step ended: its status, exit status (None where it was stopped or never ran) and seconds."""

    step: str
    status: Status
    exit: int | None
    seconds: float


class Journal:
    """How steps ended, a line each, on disk the moment it is known."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "journal.jsonl"

    def endings(self) -> dict[str, Ending]:
        """The last ending of each step."""
        last: dict[str, Ending] = {}
        for line in read_lines(self.path):
            try:
                ending = Ending(**line)
            except TypeError:
                continue
            if isinstance(ending.step, str):
                last[ending.step] = ending
        return last

    def add(self, ending: Ending) -> None:
        """Note an ending."""
        with self.path.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read() != b"\n":  # whoever wrote last was cut short
                    file.write(b"\n")
            file.write(json.dumps(asdict(ending)).encode() + b"\n")


def forget(folder: Path, step: str) -> None:
    """Drop what an earlier try of a step has measured and found; its part of the log stays."""
    for name in LINES:
        path = folder / name
        lines = read_lines(path)
        kept = [line for line in lines if line.get("step") != step]
        if len(kept) < len(lines):
            replace(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept))
