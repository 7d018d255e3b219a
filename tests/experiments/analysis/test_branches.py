from __future__ import annotations

from pathlib import Path

import pytest

from slimkern.experiments import run as module
from slimkern.experiments.analysis.analyse import analyse
from slimkern.experiments.run import run
from tests.continual.branches.test_training import SMALL, replace
from tests.continual.few_digits import few_digits
from tests.experiments.analysis.test_analyse import rows

pytest.importorskip("matplotlib")


@pytest.mark.parametrize("asked", [False, True])
def test_branches_and_the_best_on_test_are_shown_with_their_names(
    asked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "load", lambda name, root, download: few_digits())
    run(replace(SMALL, epochs=1, best_on_test=asked), tmp_path / "run")
    analyse([tmp_path / "run"], tmp_path / "out", batch=0)
    found = rows(tmp_path / "out" / "branches.csv")
    assert [row["after task"] for row in found] == ["1", "2", "3"]
    assert "test images themselves chose" in (tmp_path / "out" / "analysis.md").read_text()
    assert [float(row["branches, mean"]) for row in found] == [1, 2, 3]
    best = [row["best epoch on test, %, mean"] for row in found]
    assert all(own not in ("", "nan") for own in best) == asked
    assert not (tmp_path / "out" / "cost.csv").exists()
