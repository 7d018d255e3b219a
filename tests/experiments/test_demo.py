from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from slimkern.experiments import demo as module
from slimkern.experiments import run as run_module
from slimkern.experiments.demo import RUNS, demo
from slimkern.experiments.run_folder import RunFolder
from tests.continual.few_digits import few_digits


@pytest.fixture
def tiny_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demonstration's runs on few images, for one epoch."""
    runs = {name: replace(config, channels=4, epochs=1, batch_size=8) for name, config in RUNS.items()}
    monkeypatch.setattr(module, "RUNS", runs)
    monkeypatch.setattr(run_module, "load", lambda name, root, download: few_digits())


def test_it_compares_both_methods_as_baseline_and_scrollnet() -> None:
    told = {name: (config.method, len(config.all_widths().fractions)) for name, config in RUNS.items()}
    assert told == {
        "ft-widths-1": ("ft", 1),
        "ft-widths-4": ("ft", 4),
        "ewc-widths-1": ("ewc", 1),
        "ewc-widths-4": ("ewc", 4),
    }
    assert {(config.data, config.tasks) for config in RUNS.values()} == {("digits", 5)}


@pytest.mark.usefixtures("tiny_runs")
def test_it_trains_and_reports_and_a_second_time_only_reports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    written = demo(tmp_path)
    names = {"report.md", "runs.csv", "widths.csv", "curves.png", "matrix.png"}
    assert {path.name for path in written} == names
    assert {entry.name for entry in tmp_path.iterdir()} == {*RUNS, *names}
    printed = capsys.readouterr().out
    assert all(name in printed for name in RUNS)
    assert all(row in printed for row in ("| FT ", "FT · ScrollNet-4", "| EWC ", "EWC · ScrollNet-4"))
    report, counts = (tmp_path / "report.md").read_text(), [RunFolder.read(tmp_path / name).counts() for name in RUNS]
    assert all(one is not None and one.complete for one in counts)
    assert demo(tmp_path) == written
    assert (tmp_path / "report.md").read_text() == report
    for name in RUNS:
        events = [event["kind"] for event in RunFolder.read(tmp_path / name).events()]
        assert (events.count("started"), events.count("epoch_finished"), events.count("finished")) == (1, 5, 1)
