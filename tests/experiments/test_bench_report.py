from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from slimkern.experiments import bench_report as module
from slimkern.experiments.bench_report import BEGIN, END, bench_report, read_rows, section, with_section
from slimkern.experiments.runs import ReportError

ROOT = Path(__file__).resolve().parents[2]
README = f"before\n{BEGIN}\nold\n{END}\nafter\n"


def step(name: str, ms: float, ratio: float | None, precision: str = "fp32", **case: Any) -> dict[str, Any]:
    figures = {} if ratio is None else {"ratio p20": ratio - 0.1, "ratio p50": ratio, "ratio p80": ratio + 0.1}
    return {
        "benchmark": "training_step",
        "case": {"batch": 64, "precision": precision, "widths": 4, "scroll": 0, **case},
        "name": name,
        "milliseconds": {"p20": ms - 1, "p50": ms, "p80": ms + 1},
        "repetitions": 7,
        "figures": {"plain": "plain, eager", **figures},
        "device": "CPU test",
        "versions": {"torch": "2.15.0"},
        "commit": "0123456789ab",
    }


def part(name: str, ms: float, floor: float | None) -> dict[str, Any]:
    own = step(name, ms, None)
    return {**own, "benchmark": "step_breakdown", "figures": {"floor ms": floor, "share": 0.5}}


ROWS = [
    step("plain, eager", 600.04, 1.0),
    step("slimkern native, eager", 1234.56, 2.0567),
    step("slimkern native, eager", 9.876, 1.9, "bf16"),
    step("slimkern native, eager", 77.0, 9.0, batch=128),
    part("convolutions forward", 3.0, 2.0),
    part("all else", 1.0, None),
]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "cpu.json").write_text(json.dumps(ROWS))
    return folder


def test_the_table_shows_medians_and_ratios_of_the_case_shown() -> None:
    assert section(ROWS) == (
        "**CPU test**\n\n"
        "| step | fp32, ms | x plain | bf16, ms | x plain |\n"
        "| --- | ---: | ---: | ---: | ---: |\n"
        "| plain, eager | 600.0 | 1.00 (0.90 to 1.10) |  |  |\n"
        "| slimkern native, eager | 1234.6 | 2.06 (1.96 to 2.16) | 9.88 | 1.90 (1.80 to 2.00) |\n\n"
        "Medians of 7 interleaved repetitions, and the 20th and 80th percentile of the ratios, which are to\n"
        "\"plain, eager\" of the same precision, repetition by repetition. torch 2.15.0, commit 0123456789ab.\n"
    )  # fmt: skip


def test_only_what_is_between_the_marks_changes() -> None:
    assert with_section(README, "new\n") == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"


@pytest.mark.parametrize(
    "readme", ["", BEGIN, f"{END}{BEGIN}", f"{README}{README}"], ids=["none", "one", "order", "two"]
)
def test_a_readme_without_its_marks_is_refused(readme: str) -> None:
    with pytest.raises(ReportError, match="once each and in this order"):
        with_section(readme, "new\n")


def test_report_writes_readme_and_pictures(results: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    readme = tmp_path / "README.md"
    readme.write_text(README)
    files = bench_report(results, readme, tmp_path / "pictures")
    assert [file.name for file in files] == ["README.md", "training_step.png", "step_breakdown.png"]
    assert section(ROWS) in readme.read_text()
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files[1:])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no rows of training steps"),
        ("[]", "holds no rows"),
        ("{", "doesn't hold rows"),
        ("[1]", "doesn't hold"),
        (
            json.dumps([{key: value for key, value in ROWS[0].items() if key != "versions"}]),
            "doesn't hold .* 'versions'",
        ),
        (json.dumps([ROWS[0] | {"case": {}}]), "doesn't hold .* 'batch'"),
        (json.dumps([ROWS[0] | {"figures": {}}]), "holds no rows of training steps"),
    ],
    ids=["nothing", "empty", "damaged", "other", "without_versions", "of_no_case", "without_a_plain_one"],
)
def test_results_without_rows_are_refused(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "cpu.json").write_text(content)
    with pytest.raises(ReportError, match=message):
        read_rows(tmp_path)


def test_the_readme_agrees_with_the_stored_results() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert with_section(readme, section(read_rows(ROOT / "benchmarks" / "results"))) == readme, (
        f"run `slimkern bench report`: the figures between {module.BEGIN} and {module.END} are not those of the results"
    )
