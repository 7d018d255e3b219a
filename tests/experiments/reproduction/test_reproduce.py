from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from slimkern.continual.data import MissingDataError
from slimkern.experiments.config_file import RunFolderError
from slimkern.experiments.reproduction import drawing, reproduce
from slimkern.experiments.reproduction.cells import Cell, cells
from slimkern.experiments.reproduction.reproduce import run_table, train_missing, write_report
from slimkern.experiments.reproduction.selection import Selection
from slimkern.experiments.reproduction.targets import TARGETS, Target, TargetName
from slimkern.experiments.sweeps.job import Job, Outcome
from tests.experiments.reproduction.pretended import pretend

pytest.importorskip("matplotlib")
pytest.importorskip("scipy")
SMALL = Selection(methods=("ft", "ewc"), splits=(5, 10), widths=(1, 4), seeds=(0, 1))


class PretendedPool:
    """Finishes a job at once, unless it is of EWC's baseline."""

    slots = 1

    def __init__(self) -> None:
        self.trained: list[str] = []

    def __enter__(self) -> PretendedPool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        pass

    def start(self, job: Job) -> None:
        self.job = job
        self.trained.append(job.name)
        if "ewc-widths-1" not in job.name:
            pretend(job, 20.0 + job.config.seed)

    def wait(self, seconds: float) -> list[Outcome]:
        return [Outcome(self.job, "out of luck" if "ewc-widths-1" in self.job.name else None)]


@pytest.fixture(autouse=True)
def no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reproduce, "load", lambda name, root, download: None)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures drawn during the test."""
    kept: list[Any] = []
    save: Callable[..., None] = drawing.save_figure

    def keep(figure: Any, path: Path) -> None:
        kept.append(figure)
        save(figure, path)

    monkeypatch.setattr(drawing, "save_figure", keep)
    return kept


def reported(
    out: Path, name: TargetName = "table1", selection: Selection = SMALL
) -> tuple[PretendedPool, dict[str, str]]:
    """Trains what is missing and reports; the texts by the ending of their file."""
    target, pool = TARGETS[name], PretendedPool()
    table = cells(target, selection, out / "runs", None, "cpu")
    files = write_report(target, selection, table, train_missing(table, lambda: pool), out)
    assert files[-1].read_bytes().startswith(b"\x89PNG")
    return pool, {file.suffix: file.read_text() for file in files[:-1]}


def table_of(target: Target, out: Path, selection: Selection = SMALL) -> list[Cell]:
    return cells(target, selection, out / "runs", None, "cpu")


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_what_is_finished_is_not_trained_again(tmp_path: Path) -> None:
    first, _ = reported(tmp_path)
    again, _ = reported(tmp_path)
    assert len(first.trained) == 16
    assert again.trained == [name for name in first.trained if "ewc-widths-1" in name]


def test_a_table_stands_beside_the_papers(tmp_path: Path) -> None:
    _, texts = reported(tmp_path)
    lines = texts[".md"].splitlines()
    head = next(line for line in lines if line.startswith("| method"))
    columns = [column.strip() for column in head.strip("|").split("|")]
    assert columns == [
        "method", "network", "from", "agnostic, 5 tasks", "agnostic, 10 tasks", "aware, 5 tasks", "aware, 10 tasks",
    ]  # fmt: skip
    cell = [[part.strip() for part in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    assert ["FT", "ScrollNet-4", "ours", "20.50 ± 0.71", "20.50 ± 0.71", "30.50 ± 0.71", "30.50 ± 0.71"] in cell
    assert ["FT", "ScrollNet-4", "paper", "31.67 ± 1.59", "18.66 ± 0.49", "60.47 ± 1.53", "56.60 ± 1.35"] in cell
    assert ["EWC", "baseline", "ours", *["missing"] * 4] in cell
    assert ["cifar100-10-ewc-widths-1-seed-1", "failed: out of luck"] in cell
    assert "z = (ours - paper) / sqrt(" in texts[".md"] and "SHORTENED" not in texts[".md"]
    assert r"FT & ScrollNet-4 & ours & 20.50 $\pm$ 0.71 & 20.50 $\pm$ 0.71" in texts[".tex"]
    assert r"EWC & baseline & ours & missing & missing" in texts[".tex"]
    assert (
        r"FT & ScrollNet-4 & 10 tasks & task-agnostic & 2 & 20.50 $\pm$ 0.71 & 18.66 $\pm$ 0.49 & +1.84 &"
        in texts[".tex"]
    )


def test_the_csv_has_every_number(tmp_path: Path) -> None:
    _, texts = reported(tmp_path)
    found = {(row["method"], row["network"], row["tasks"], row["setting"]): row for row in rows(texts[".csv"])}
    assert len(found) == 16
    ours = found["FT", "ScrollNet-4", "10", "agnostic"]
    assert (ours["runs"], ours["runs_wanted"], ours["shortened"]) == ("2", "2", "")
    assert [float(ours[name]) for name in ("mean", "paper_mean", "paper_std")] == [20.5, 18.66, 0.49]
    assert float(ours["difference"]) == pytest.approx(1.84) and 0 < float(ours["p"]) < 1
    gone = found["EWC", "baseline", "10", "aware"]
    assert (gone["runs"], gone["mean"], gone["difference"], gone["paper_mean"]) == ("0", "", "", "57.47")


def test_shortened_runs_are_marked_everywhere(tmp_path: Path, figures: list[Any]) -> None:
    selection = Selection(methods=("ft",), splits=(10,), widths=(1, 4), seeds=(0,), epochs=2)
    _, texts = reported(tmp_path, selection=selection)
    assert {file.name for file in tmp_path.glob("table1*")} == {
        f"table1-shortened{ending}" for ending in (".md", ".tex", ".csv", ".png")
    }
    assert texts[".md"].startswith("# Table 1 of the ScrollNet paper, shortened\n\n> **SHORTENED: 2 of 200 epochs.**")
    ours = [line for line in texts[".md"].splitlines() if "| ours " in line]
    assert len(ours) == 2 and all(line.count("†") == 2 for line in ours)
    assert "difference" not in texts[".md"]
    assert r"SHORTENED: 2 of 200 epochs ($^\dagger$: not comparable)" in texts[".tex"]
    assert all(line.count(r"$^\dagger$") == 2 for line in texts[".tex"].splitlines() if "& ours &" in line)
    for row in rows(texts[".csv"]):
        assert row["shortened"] == "2 of 200 epochs" and row["difference"] == row["z"] == row["p"] == ""
    (figure,) = figures
    assert "SHORTENED: 2 of 200 epochs" in figure.get_suptitle()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["baseline", "ScrollNet-4"]
    assert not [c for panel in figure.axes for c in panel.get_children() if drawing.PAPER_COLOUR in colours(c)]


def test_another_protocol_and_precision_are_said_everywhere(tmp_path: Path, figures: list[Any]) -> None:
    selection = Selection(
        methods=("ft",), splits=(10,), widths=(4,), seeds=(0, 1), protocol="released", precision="bf16"
    )
    pool, texts = reported(tmp_path, selection=selection)
    assert pool.trained[0] == "cifar100-10-ft-widths-4-seed-0-protocol-released-precision-bf16"
    assert (tmp_path / "table1-released-bf16.md").is_file() and not (tmp_path / "table1.md").exists()
    words = "protocol released, precision bf16"
    assert f"> **Trained with {words}.**" in texts[".md"] and "| +1.84 " in texts[".md"]
    assert words in texts[".tex"] and {row["varied"] for row in rows(texts[".csv"])} == {words}
    assert words in " ".join(figures[0].get_suptitle().split())


def colours(artist: Any) -> list[Any]:
    return [artist.get_color()] if hasattr(artist, "get_color") else []


def test_a_split_of_no_paper_has_no_published_rows(tmp_path: Path) -> None:
    selection = Selection(methods=("ft",), tasks=2, classes=20, widths=(1,), seeds=(0,))
    _, texts = reported(tmp_path, selection=selection)
    assert (
        "| paper " not in texts[".md"] and "20 of 100 classes, 2 tasks, where the paper has 5, 10, 20" in texts[".md"]
    )


@pytest.mark.parametrize("name", ["table1", "figure4"])
def test_missing_cells_and_the_papers_points_are_drawn(tmp_path: Path, figures: list[Any], name: TargetName) -> None:
    reported(tmp_path, name)
    (figure,) = figures
    written = [text.get_text() for panel in figure.axes for text in panel.texts]
    assert sum("missing" in text for text in written) == (4 if name == "table1" else 2)
    assert "paper" in [text.get_text() for text in figure.legends[0].get_texts()]
    grey = [c for panel in figure.axes for c in panel.lines if drawing.PAPER_COLOUR in colours(c)]
    assert len(grey) == (16 if name == "table1" else 8)


@pytest.mark.parametrize("name", ["table1", "figure4"])
def test_nothing_drawn_lies_outside_its_panel(tmp_path: Path, figures: list[Any], name: TargetName) -> None:
    """EWC is drawn after FT, and far better."""
    selection = Selection(methods=("ft", "ewc"), splits=(5,), widths=(4,), seeds=(0,))
    table = table_of(TARGETS[name], tmp_path, selection)
    for cell, accuracy in zip(table, (10.0, 80.0), strict=True):
        pretend(cell.jobs[0], accuracy)
    write_report(TARGETS[name], selection, table, [], tmp_path)
    for panel in figures[0].axes:
        low, high = panel.get_ylim()
        drawn = [float(value) for line in panel.lines for value in line.get_ydata()]
        assert drawn and low == 0 and max(drawn) < 0.98 * high


def test_a_figure_has_a_point_after_each_task(tmp_path: Path) -> None:
    _, texts = reported(tmp_path, "figure5")
    curve = [
        row for row in rows(texts[".csv"]) if (row["method"], row["network"], row["tasks"]) == ("FT", "baseline", "5")
    ]
    assert [int(row["after_task"]) for row in curve] == [1, 2, 3, 4, 5]
    assert {row["setting"] for row in curve} == {"aware"} and {float(row["mean"]) for row in curve} == {30.5}
    assert [row["paper_mean"] for row in curve] == ["", "", "", "", "54.23"]
    assert [row["difference"] for row in curve[:4]] == [""] * 4 and [row["p"] for row in curve[:4]] == [""] * 4
    assert float(curve[4]["difference"]) == pytest.approx(30.5 - 54.23) and 0 < float(curve[4]["p"]) < 1


def test_runs_are_listed_with_their_state(tmp_path: Path) -> None:
    table = table_of(TARGETS["table1"], tmp_path)
    pretend(table[0].jobs[0], 50.0)
    pretend(table[0].jobs[1], 50.0, tasks=2)
    listed = run_table(table)
    assert listed.title == "16 runs"
    assert listed.rows[:3] == (
        ("cifar100-5-ft-widths-1-seed-0", "finished", "100 %", ""),
        ("cifar100-5-ft-widths-1-seed-1", "unfinished", "0 %", "no epoch yet"),
        ("cifar100-5-ft-widths-4-seed-0", "missing", "0 %", ""),
    )


def test_a_results_folder_of_another_version_stops_before_training(tmp_path: Path) -> None:
    table, pool = table_of(TARGETS["table1"], tmp_path), PretendedPool()
    folder = table[-1].jobs[-1].folder
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"format": 99, "config": {}}')
    with pytest.raises(RunFolderError, match=r"seed-1/config\.json has format version 99; this slimkern reads"):
        train_missing(table, lambda: pool)
    assert not pool.trained


def test_missing_data_stops_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str, root: Path | None, download: bool) -> None:
        raise MissingDataError(f"no {name}")

    monkeypatch.setattr(reproduce, "load", fail)
    with pytest.raises(MissingDataError, match="no cifar100"):
        train_missing(table_of(TARGETS["table1"], tmp_path), PretendedPool)


def test_units_stand_beside_their_paper_image_by_image_too(tmp_path: Path) -> None:
    target, selection = TARGETS["autoactivator"], Selection(seeds=(0, 1))
    table = table_of(target, tmp_path, selection)
    for cell in table:
        for job in cell.jobs:
            pretend(job, 40.0, in_batches=95.0)
    files = write_report(target, selection, table, [], tmp_path)
    text = files[0].read_text()
    assert files[0].name == "autoactivator.md" and "SHORTENED" not in text
    cell = [
        [part.strip() for part in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")
    ]
    assert cell[0] == [
        "method", "network", "from", "batches, mnist", "batches, fashion-mnist", "agnostic, mnist",
        "agnostic, fashion-mnist", "aware, mnist", "aware, fashion-mnist",
    ]  # fmt: skip
    assert cell[2][2:] == ["ours", *["95.00 ± 0.00"] * 2, *["40.00 ± 0.00"] * 2, *["50.00 ± 0.00"] * 2]
    assert cell[3][2:] == ["paper", "97.32 ± 0.03", "88.46 ± 0.06", *["n/a"] * 4]
    assert "Paper: Table 1 in ICML 2024, arXiv 2406.02428: every test batch holds one task's images." in text
