"""The page says what the files of a campaign say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

page = pytest.importorskip("campaign.page")
runner = pytest.importorskip("campaign.runner")

STEPS = [runner.Step(name, f"about {name}", ["true"], 1) for name in ("kernels", "tests", "step", "memory")]
CHECK = {"layer": "64>64", "pass": "forward", "way": "in place", "kind": "bfloat16", "scroll": 1}


def training(name: str, milliseconds: float, ratio: float | None) -> dict[str, Any]:
    figures = {"plain": "plain, captured", "ratio p50": ratio, "ratio to roofline": 2.5, "launches": 400}
    case = {"batch": 64, "precision": "bf16"}
    return {
        "benchmark": "training_step", "case": case, "name": name, "milliseconds": {"p50": milliseconds},
        "figures": figures,
    }  # fmt: skip


def write(path: Path, lines: list[dict[str, Any]], rest: str = "") -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + rest)


def test_it_names_what_is_wrong_what_is_fast_and_what_is_missing(tmp_path: Path) -> None:
    endings = {
        "kernels": runner.Ending("kernels", "failed", 1, 30.0),
        "tests": runner.Ending("tests", "passed", 0, 80.0),
        "step": runner.Ending("step", "hung", None, 60.0),
        "memory": runner.Ending("memory", "no time", None, 0.0),
    }
    checks = [
        {**CHECK, "configuration": "small", "status": "right", "why": ""},
        {**CHECK, "configuration": "large", "status": "crashed", "why": "first line\nan illegal memory access\n"},
    ]
    write(tmp_path / "checks.jsonl", checks)
    write(
        tmp_path / "rows.jsonl",
        [training("plain, captured", 1.0, 1.0), training("slimkern native, captured", 1.8, 1.8)],
        rest='{"benchmark": "cut sho',
    )
    (tmp_path / "log.txt").write_text("FAILED tests/gpu/test_one.py::test_it - assert 0\n2 failed, 3 passed in 1.00s\n")
    text = page.write_page(tmp_path, STEPS, endings).read_text()
    ran, right, fast, after = (text.split("\n## ")[place] for place in (1, 2, 3, 4))
    assert "- step (about step): hung, 60 s" in ran
    assert "1 right, 1 crashed" in right and "large: crashed, an illegal memory access" in right
    assert "tests: 2 failed, 3 passed in 1.00s" in right and "tests/gpu/test_one.py::test_it - assert 0" in right
    assert "| slimkern native, captured | batch 64, precision bf16 | 1.800 | 1.80 | 2.50 | 400 |" in fast
    assert "memory are missing" in after and "- step hung" in after and "- kernels failed" in after
    assert "the best step of ours takes 1.80 of plain, captured (slimkern native, captured)" in after


def test_an_empty_campaign_has_a_page(tmp_path: Path) -> None:
    text = page.write_page(tmp_path, STEPS, {}).read_text()
    assert text.count("still missing") == len(STEPS) and "no configuration was checked" in text
