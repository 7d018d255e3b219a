from __future__ import annotations

from pathlib import Path

import pytest

from slimkern.continual.metrics import Counts
from slimkern.experiments.report import report
from slimkern.experiments.run_folder import RunFolder, RunFolderError


def make_run(path: Path, finished: bool = True, **config: object) -> Path:
    with RunFolder.open(path, {"method": "ewc", "widths": [0.5, 1.0], "tasks": 1, "seed": 0, **config}) as folder:
        if finished:
            folder.save_counts(Counts.empty((0.5, 1.0), (10,)).with_row([[7, 8]], [[5, 6]]))
    return path


def test_prints_markdown_and_writes_tables_and_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    runs = [make_run(tmp_path / str(seed), seed=seed) for seed in range(2)]
    written = report(runs, tmp_path / "out")
    assert sorted(path.name for path in written) == ["curves.png", "matrix.png", "report.md", "runs.csv", "widths.csv"]
    printed = capsys.readouterr().out
    assert "| EWC · ScrollNet-2 | 1     |   2 | 60.00 ± 0.00 |" in printed
    assert (tmp_path / "out" / "report.md").read_text() in printed


def test_without_out_only_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report([make_run(tmp_path / "run")]) == []
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert "60.00" in capsys.readouterr().out


def test_runs_that_have_only_begun_get_no_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = report([make_run(tmp_path / "run", finished=False, widths=[1.0])], tmp_path / "out")
    assert [path.name for path in written] == ["report.md", "runs.csv"]
    assert "0 of 1, unfinished" in capsys.readouterr().out


def test_a_folder_without_a_run_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="not a run folder"):
        report([make_run(tmp_path / "run"), tmp_path], tmp_path / "out")
    with pytest.raises(ValueError, match="name at least one"):
        report([], tmp_path / "out")
    assert not (tmp_path / "out").exists()
