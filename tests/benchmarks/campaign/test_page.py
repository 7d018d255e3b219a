"""The page says what the files of a campaign say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

page = pytest.importorskip("campaign.page")
journal = pytest.importorskip("campaign.journal")

STEPS = [journal.Step(name, f"about {name}", ["true"], 1) for name in ("kernels", "tests", "step", "memory")]
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
        "kernels": journal.Ending("kernels", "failed", 1, 30.0),
        "tests": journal.Ending("tests", "passed", 0, 80.0),
        "step": journal.Ending("step", "hung", None, 60.0),
        "memory": journal.Ending("memory", "no time", None, 0.0),
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
    (tmp_path / "log.txt").write_text(
        "===== tests: failed, exit 1, 3 s\nFAILED tests/gpu/test_old.py::test_it - assert 0\n1 failed in 1.00s\n"
        "===== tests: failed, exit 1, 3 s\nFAILED tests/gpu/test_one.py::test_it - assert 0\n"
        "==== 2 failed, 3 passed, 7 skipped in 100.00s (0:01:40) ====\n"
        "===== step: hung, exit None, 60 s\nleft out: slimkern triton, captured: RuntimeError: no\n"
    )
    text = page.write_page(tmp_path, STEPS, endings).read_text()
    ran, right, fast, after = (text.split("\n## ")[place] for place in (1, 2, 3, 4))
    assert "- step (about step): hung, 60 s" in ran
    assert "1 right, 1 crashed" in right and "large: crashed, an illegal memory access" in right
    assert (
        "tests: 2 failed, 3 passed, 7 skipped in 100.00s (0:01:40)\n" in right
        and "test_old" not in text
        and "tests/gpu/test_one.py::test_it - assert 0" in right
    )
    assert "| slimkern native, captured | batch 64, precision bf16 | 1.800 | 1.80 | 2.50 | 400 |" in fast
    assert "memory had no time, or are missing" in after and "- step hung" in after and "- kernels failed" in after
    assert "the best step of ours takes 1.80 of plain, captured (slimkern native, captured)" in after

    assert "why 7 tests were skipped" in after and "left out: slimkern triton, captured: RuntimeError: no" in after


def passed(tmp_path: Path, log: str) -> str:
    """What to do next after a campaign that passed, and whose results are as they should be."""
    write(tmp_path / "checks.jsonl", [{**CHECK, "configuration": "small", "status": "right", "why": ""}])
    write(tmp_path / "rows.jsonl", [training("slimkern native, captured", 1.8, 1.8)])
    (tmp_path / "log.txt").write_text(log)
    endings = {step.name: journal.Ending(step.name, "passed", 0, 1.0) for step in STEPS}
    return page.write_page(tmp_path, STEPS, endings).read_text().split("## What to do next")[1]


CLEAN = "===== memory: passed, exit 0, 3 s\n========= ERROR SUMMARY: 0 errors\n16 passed in 3.00s\n"


def test_it_says_that_all_is_right_only_where_it_is(tmp_path: Path) -> None:
    assert passed(tmp_path, CLEAN).strip().splitlines()[1:] == ["- all ran, and all that was checked is right"]
    for log in (
        "",
        "===== tests: passed, exit 0, 3 s\n397 skipped in 3.00s\n",
        CLEAN + "left out: slimkern triton, captured: no such kernel\n",
    ):
        assert "all ran" not in passed(tmp_path, log)


@pytest.mark.parametrize("line", ["3", "{}", '{"benchmark": "training_step"}', '{"status": "wrong"}', "\xff"])
def test_damaged_lines_cost_a_part_of_the_page_at_most(tmp_path: Path, line: str) -> None:
    for name in ("rows.jsonl", "checks.jsonl"):
        (tmp_path / name).write_bytes(line.encode("latin-1") + b"\n")
    text = page.write_page(tmp_path, STEPS, {}).read_text()
    assert "about memory" in text and "all ran" not in text


def test_an_empty_campaign_has_a_page(tmp_path: Path) -> None:
    text = page.write_page(tmp_path, STEPS, {}).read_text()
    assert text.count("still missing") == len(STEPS) and "check the kernels: no configuration was" in text
