from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from slimkern.continual.config import TrainConfig
from slimkern.continual.metrics import average_accuracy, forgetting
from slimkern.experiments import run as module
from slimkern.experiments.analysis.analyse import analyse
from slimkern.experiments.analysis.movement import Moves
from slimkern.experiments.run import run
from slimkern.experiments.run_folder import RunFolder, RunFolderError
from slimkern.experiments.runs import ReportError, group_by_seed, read_runs
from slimkern.experiments.tables import closing_table
from tests.continual.few_digits import TINY, few_digits

pytest.importorskip("matplotlib")
NETWORK = replace(TINY, widths=(2.0,), epochs=1)
UNITS = TrainConfig(
    method="autoactivator", widths=(1.0,), options={"candidates": 4, "limit": 20, "nodes": 5}, test_batch=5,
    homogeneous="task",
)  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two seeds of a network, and two of AutoActivator."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load", lambda name, root, download: few_digits())
        for seed in range(2):
            run(replace(NETWORK, seed=seed), folder / f"network-{seed}")
            run(replace(UNITS, seed=seed), folder / f"units-{seed}")
    return {path.name: path for path in folder.iterdir()}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_networks_and_units_are_analysed(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = analyse(list(runs.values()), tmp_path, batch=0)
    assert {path.name for path in written} == {
        "analysis.md", "widths.png", "movement.png", "movement_by_layer.png", "activation.png", "accuracy_by_width.csv",
        "forgetting_by_width.csv", "cost.csv", "activation.csv", "test_batches.csv", "widths_by_task.csv",
        "movement.csv", "movement_by_layer.csv",
    }  # fmt: skip
    printed = capsys.readouterr().out
    assert (tmp_path / "analysis.md").read_text() in printed
    assert "batches of 5, all of one task" in printed and "image by image" in printed
    pictures = ("widths.png", "movement.png", "movement_by_layer.png")
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in pictures)


def test_metrics_are_those_of_the_counts(runs: dict[str, Path], tmp_path: Path) -> None:
    analyse([runs["network-0"]], tmp_path, widths=[0.5], batch=0)
    counts = RunFolder.read(runs["network-0"]).counts()
    assert counts is not None
    found = rows(tmp_path / "widths_by_task.csv")
    assert {row["width"] for row in found} == {"0.5"} and len(found) == 4
    for row in found:
        setting, after = row["setting"].removeprefix("task-"), int(row["after task"]) - 1
        assert float(row["average accuracy, mean"]) == average_accuracy(counts, setting, 0.5)[after]  # type: ignore[arg-type]
        if after:
            assert float(row["forgetting, mean"]) == forgetting(counts, setting, 0.5)[after]  # type: ignore[arg-type]


def test_movement_is_that_of_the_events(runs: dict[str, Path], tmp_path: Path) -> None:
    analyse([runs["network-0"], runs["network-1"]], tmp_path, batch=0)
    found = rows(tmp_path / "movement.csv")
    assert [(row["task"], row["block"], row["rank"]) for row in found] == [
        ("1", "0", "1"), ("1", "1", "2"), ("2", "0", "2"), ("2", "1", "1")
    ]  # fmt: skip
    values = []
    for seed in range(2):
        moved = [e for e in RunFolder.read(runs[f"network-{seed}"]).events() if e["kind"] == "moved"]
        layers = moved[1]["blocks"].values()
        values.append(sum(blocks[1] for blocks in layers) / len(layers))
    assert float(found[3]["relative movement, mean"]) == pytest.approx(sum(values) / 2)
    layers = rows(tmp_path / "movement_by_layer.csv")
    own = [float(row["relative movement, mean"]) for row in layers if (row["task"], row["block"]) == ("2", "1")]
    assert len(own) == len({row["layer"] for row in layers}) == 20 and layers[0]["layer"] == "conv1"
    assert sum(own) / 20 == pytest.approx(sum(values) / 2)


def test_a_run_that_tells_of_no_movement_gets_no_picture_of_it(runs: dict[str, Path]) -> None:
    (group,) = group_by_seed(read_runs([runs["network-0"]]))
    events = RunFolder.read(runs["network-0"]).events()
    assert Moves.of(group, [[event for event in events if event["kind"] != "moved"]]) is None
    assert Moves.of(group, [events]) is not None


def test_units_are_reported_image_by_image_beside_their_batches(runs: dict[str, Path], tmp_path: Path) -> None:
    analyse([runs["units-0"]], tmp_path)
    (row,) = rows(tmp_path / "activation.csv")
    counts = RunFolder.read(runs["units-0"]).counts()
    assert counts is not None
    assert float(row["image by image, mean"]) == pytest.approx(average_accuracy(counts, "agnostic")[-1])
    assert float(row["task-aware, mean"]) == average_accuracy(counts, "aware")[-1]
    last = [event for event in RunFolder.read(runs["units-0"]).events() if event["kind"] == "activated"][-1]
    expected = sum(100 * own / total for own, total in zip(last["correct"]["task"]["5"], last["images"], strict=True))
    assert float(row["accuracy, mean"]) == pytest.approx(expected / 5)
    told = [event for event in RunFolder.read(runs["units-0"]).events() if event["kind"] == "activated"]
    shares = [
        [100 * own / all_ for own, all_ in zip(e["correct"]["task"]["5"], e["images"], strict=True)] for e in told
    ]
    assert float(row["incremental, mean"]) == pytest.approx(sum(sum(own) / len(own) for own in shares) / 5)
    gains = [shares[-1][task] - shares[task][task] for task in range(4)]
    assert float(row["transfer, mean"]) == pytest.approx(sum(gains) / 4)
    (closing,) = closing_table(group_by_seed(read_runs([runs["units-0"]]))).rows
    assert closing[3] == "of 5, all of one task" and str(closing[4]) == f"{expected / 5:.2f}"
    assert not (tmp_path / "cost.csv").exists() and not (tmp_path / "movement.png").exists()


def test_bad_arguments_are_refused_before_anything_is_written(runs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"width 0.3 is none of FT . ScrollNet-2, which has 0.5, 1"):
        analyse([runs["network-0"]], tmp_path / "out", widths=[0.3])
    with pytest.raises(ReportError, match="batch=-1 must be at least 0"):
        analyse([runs["network-0"]], tmp_path / "out", batch=-1)
    with pytest.raises(ReportError, match="name at least one"):
        analyse([], tmp_path / "out")
    with pytest.raises(RunFolderError, match="not a run folder"):
        analyse([tmp_path], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_that_has_only_begun_is_refused(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path / "begun", {"method": "ft", "widths": [1.0], "seed": 0}):
        pass
    with pytest.raises(ReportError, match="begun has not finished a task yet"):
        analyse([tmp_path / "begun"], tmp_path / "out")
