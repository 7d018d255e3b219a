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
    measured = {"images/s": 64e3 / ms, "ratio to roofline": 1.234, "launches": 434, "peak MB": 1234.5}
    return {
        "benchmark": "training_step",
        "case": {"batch": 64, "precision": precision, "widths": 4, "scroll": 0, **case},
        "name": name,
        "milliseconds": {"p20": ms - 1, "p50": ms, "p80": ms + 1},
        "repetitions": 7,
        "figures": {"plain": "plain, eager", **figures, **measured},
        "device": "CPU test",
        "versions": {"torch": "2.15.0"},
        "commit": "0123456789ab",
    }


def part(name: str, ms: float, floor: float | None, **case: Any) -> dict[str, Any]:
    own = step(name, ms, None, **{"backend": "native", **case})
    return {**own, "benchmark": "step_breakdown", "figures": {"floor ms": floor, "share": 0.5}}


def run() -> dict[str, Any]:
    own = step("one task, eager", 12345.6, None)
    case = {"data": "cifar100", "widths": 4, "precision": "fp32", "batch": 64, "epochs": 1, "images": 320}
    return {**own, "benchmark": "run", "case": case, "figures": {"estimate of a full cell, hours": 55.55}}


ROWS = [
    step("plain, eager", 600.04, 1.0),
    step("slimkern native, eager", 1234.56, 2.0567),
    step("slimkern native, eager", 9.876, 1.9, "bf16"),
    step("slimkern native, eager", 77.0, 9.0, batch=128),
    step("slimkern native, eager", 0.1, 0.1, channels=8),
    run(),
    {**step("slimkern, without its operators", 2.5, None), "benchmark": "python", "case": {"widths": 4}},
    part("convolutions forward", 3.0, 2.0),
    part("all else", 1.0, None),
]
SCROLLED = part("all else", 1.0, None, scroll=1)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "cpu.json").write_text(json.dumps(ROWS))
    return folder


HEAD = (
    "| step | precision | ms | images/s | x plain | x roofline | launches | peak MB |\n"
    "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n"
)


def test_the_tables_show_all_that_was_measured_of_the_case_shown() -> None:
    shown = section(ROWS)
    assert shown.startswith(
        f"**CPU test**\n\nBatches of 64:\n\n{HEAD}"
        "| plain, eager | fp32 | 600.0 | 106.7 | 1.00 (0.90 to 1.10) | 1.23 | 434 | 1234 |\n"
        "| slimkern native, eager | fp32 | 1235 | 51.8 | 2.06 (1.96 to 2.16) | 1.23 | 434 | 1234 |\n"
        "| slimkern native, eager | bf16 | 9.88 | 6480 | 1.90 (1.80 to 2.00) | 1.23 | 434 | 1234 |\n"
        f"\n<details><summary>Batches of 128</summary>\n\n{HEAD}"
        "| slimkern native, eager | fp32 | 77.0 | 831.2 | 9.00 (8.90 to 9.10) | 1.23 | 434 | 1234 |\n"
        "\n</details>\n\nMedians of 7 interleaved repetitions, and the 20th and 80th percentile of the ratios"
    )
    assert shown.endswith(
        "- one task, eager of cifar100: 12.3 s for 1 epoch of 320 images, 4 widths, fp32, batches of 64. From this "
        "follow 55.5 hours for a full cell of the paper, which wasn't run.\n"
        "- Python and framework a step, slimkern, without its operators, one thread: 2.50 ms.\n\n"
        "![Where the time of a step goes, by operator, beside its floor](docs/step_breakdown.png)\n"
    )
    assert "torch 2.15.0, commit 0123456789ab" in shown.replace("\n", " ")


def test_what_was_not_measured_is_named() -> None:
    unwrapped = section(ROWS).replace("\n", " ")
    missing = unwrapped.partition("Not measured here: ")[2].partition(".  ")[0].split("; ")
    assert '"plain, captured"' in missing and '"plain, eager"' not in missing
    assert missing[-3:] == ["256 images", "tf32", "fp16"] and len(missing) == len(module.STEPS) - 2 + 3


def test_each_backend_has_its_own_bars_and_scrolled_steps_have_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert module._breakdown([*ROWS, SCROLLED]) == ROWS[-2:]
    pytest.importorskip("matplotlib.pyplot")
    monkeypatch.setattr(module, "_stored", lambda figure, path: [axis.get_title("left") for axis in figure.axes])
    titles = module._draw_breakdown([*ROWS, SCROLLED, part("all else", 2.0, None, backend="torch")], tmp_path)
    assert [title.partition(",")[0] for title in titles] == ["slimkern native", "slimkern torch"]


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
