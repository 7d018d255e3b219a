from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slimkern.continual.metrics import Counts
from slimkern.experiments import plots
from slimkern.experiments.runs import Run

pytest.importorskip("matplotlib")

FOUR = [0.25, 0.5, 0.75, 1.0]


def run(seed: int = 0, correct: int = 5, tasks: int = 3, finished: int = 3, **config: Any) -> Run:
    config = {"method": "ewc", "widths": [1.0], "epochs": 2, "seed": seed} | config
    counts = Counts.empty(tuple(config["widths"]), (10,) * tasks)
    for seen in range(1, finished + 1):
        row = np.full((seen, len(counts.widths)), correct)
        counts = counts.with_row(row + 1, row)
    return Run(f"run-{seed}", config, counts)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures saved during the test."""
    kept: list[Any] = []
    save = plots.save_figure

    def keep(figure: Any, path: Path) -> None:
        kept.append(figure)
        save(figure, path)

    monkeypatch.setattr(plots, "save_figure", keep)
    return kept


RUNS = [run(0, 4), run(1, 6), run(widths=FOUR), run(method="ft", finished=2), run(epochs=9)]


@pytest.mark.parametrize("draw", [plots.draw_curves, plots.draw_matrix])
@pytest.mark.parametrize(("ending", "start"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_the_ending_says_the_format(tmp_path: Path, draw: Any, ending: str, start: bytes) -> None:
    path = tmp_path / f"figure.{ending}"
    draw([run()], path)
    assert path.read_bytes().startswith(start)


def test_curves_show_mean_and_deviation_of_seeds(tmp_path: Path, figures: list[Any]) -> None:
    plots.draw_curves([run(0, 4), run(1, 6)], tmp_path / "curves.png")
    agnostic, aware = figures[0].axes
    assert [panel.get_title(loc="left") for panel in (agnostic, aware)] == ["Task-agnostic", "Task-aware"]
    np.testing.assert_allclose(agnostic.lines[0].get_xydata(), [[1, 50], [2, 50], [3, 50]])
    np.testing.assert_allclose(aware.lines[0].get_ydata(), [60, 60, 60])
    band = agnostic.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((50 - 200**0.5, 50 + 200**0.5))


def test_colour_is_the_method_and_every_line_looks_different(tmp_path: Path, figures: list[Any]) -> None:
    plots.draw_curves(RUNS, tmp_path / "curves.png")
    lines = {line.get_label(): line for line in figures[0].axes[0].lines}
    assert list(lines) == [
        "EWC · epochs 2 (2 seeds)",
        "EWC · ScrollNet-4 · epochs 2 (1 seed)",
        "FT · epochs 2 (1 seed, unfinished)",
        "EWC · epochs 9 (1 seed)",
    ]
    looks = [(line.get_color(), line.get_linestyle(), line.get_marker()) for line in lines.values()]
    assert len(set(looks)) == len(looks)
    assert [colour == plots.METHOD_COLOURS["EWC"] for colour, *_ in looks] == [True, True, False, True]


def test_methods_without_a_colour_of_their_own_differ_by_marker(tmp_path: Path, figures: list[Any]) -> None:
    plots.draw_curves([run(method="mine"), run(method="yours")], tmp_path / "curves.png")
    assert len({line.get_marker() for line in figures[0].axes[0].lines}) == 2


def test_curves_of_both_panels_are_in_sight(tmp_path: Path, figures: list[Any]) -> None:
    plots.draw_curves([run(correct=2)], tmp_path / "curves.png")
    bottom, top = figures[0].axes[1].get_ylim()
    assert bottom == 0 and top > 30


def test_matrix_has_a_panel_a_group_and_numbers_for_seen_tasks_only(tmp_path: Path, figures: list[Any]) -> None:
    plots.draw_matrix(RUNS, tmp_path / "matrix.png")
    panels = [panel for panel in figures[0].axes if panel.images and panel.get_title(loc="left")]
    assert len(panels) == 4
    assert [text.get_text() for text in panels[0].texts] == ["50"] * 6
    assert [text.get_text() for text in panels[2].texts] == ["50"] * 3


def test_matrix_of_the_other_setting(tmp_path: Path, figures: list[Any]) -> None:
    plots.draw_matrix([run()], tmp_path / "matrix.png", setting="aware")
    assert {text.get_text() for text in figures[0].axes[0].texts} == {"60"}


@pytest.mark.parametrize("draw", [plots.draw_curves, plots.draw_matrix])
def test_nothing_to_draw_writes_nothing(tmp_path: Path, draw: Any) -> None:
    with pytest.raises(ValueError, match="none of these 1 runs has finished a task"):
        draw([run(finished=0)], tmp_path / "figure.png")
    assert list(tmp_path.iterdir()) == []


def test_drawing_needs_no_pyplot_and_leaves_the_users_style(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: Any = pytest.importorskip("matplotlib").rcParams
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    before = {key: settings[key] for key in plots.STYLE}
    plots.draw_curves([run()], tmp_path / "curves.png")
    assert {key: settings[key] for key in plots.STYLE} == before


def test_missing_matplotlib_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"slimkern\[plot\]"):
        plots.draw_curves([run()], tmp_path / "curves.png")
