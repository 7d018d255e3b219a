from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimkern.continual.metrics import Counts
from slimkern.experiments.reproduction import comparison
from slimkern.experiments.reproduction.cells import cells
from slimkern.experiments.reproduction.comparison import WelchTest, compare
from slimkern.experiments.reproduction.selection import Selection
from slimkern.experiments.reproduction.targets import TARGETS
from slimkern.experiments.tables import Spread
from tests.experiments.reproduction.pretended import pretend

stats = pytest.importorskip("scipy.stats")
TABLE1 = TARGETS["table1"]
ONE_CELL = Selection(methods=("ewc",), splits=(10,), widths=(4,))
accuracies = st.lists(st.integers(0, 1000).map(lambda tenths: tenths / 10), min_size=2, max_size=6)


def test_the_statistic_by_hand() -> None:
    # sqrt(0.9^2 / 3 + 1.2^2 / 3) = sqrt(0.27 + 0.48)
    test = WelchTest.of(Spread(30.0, 0.9), 3, Spread(28.0, 1.2), 3)
    assert test.z == pytest.approx(2.0 / math.sqrt(0.75))


@pytest.mark.filterwarnings("ignore:Precision loss")
@given(ours=accuracies, theirs=accuracies)
def test_it_is_welchs_test(ours: list[float], theirs: list[float]) -> None:
    one, other = Spread.of(ours), Spread.of(theirs)
    test = WelchTest.of(one, len(ours), other, len(theirs))
    if one.std + other.std == 0:
        assert math.isnan(test.z) and math.isnan(test.p)
        return
    wanted = stats.ttest_ind(ours, theirs, equal_var=False)
    assert test.z == pytest.approx(wanted.statistic, rel=1e-6, abs=1e-9)
    assert test.p == pytest.approx(wanted.pvalue, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("runs", [(1, 3), (3, 1)])
def test_a_single_run_can_not_be_tested(runs: tuple[int, int]) -> None:
    test = WelchTest.of(Spread(30.0, 1.0), runs[0], Spread(28.0, 1.0), runs[1])
    assert math.isnan(test.z) and math.isnan(test.p)


def test_finished_runs_are_compared_with_the_paper(tmp_path: Path) -> None:
    (cell,) = cells(TABLE1, ONE_CELL, tmp_path, None, "cpu")
    for job, accuracy in zip(cell.jobs, (28.0, 29.0, 30.0), strict=True):
        pretend(job, accuracy)
    agnostic, aware = compare([cell], TABLE1, comparable=True)
    assert (agnostic.setting, aware.setting) == ("agnostic", "aware")
    assert np.array_equal(agnostic.curves, np.repeat([[28.0], [29.0], [30.0]], 10, axis=1))
    assert (agnostic.ours, aware.ours) == (Spread(29.0, 1.0), Spread(39.0, 1.0))
    # The paper has 28.03 ± 1.88 and 69.87 ± 2.15.
    assert agnostic.difference == pytest.approx(0.97) and aware.difference == pytest.approx(-30.87)
    assert agnostic.test.z == pytest.approx(0.97 / math.sqrt((1 + 1.88**2) / 3))
    assert agnostic.test.p > 0.4 and aware.test.p < 0.001
    assert agnostic.runs == "3"


def test_answers_to_batches_are_compared_with_the_paper(tmp_path: Path) -> None:
    target = TARGETS["autoactivator"]
    (cell,) = cells(target, Selection(datasets=("mnist",), seeds=(0, 1)), tmp_path, None, "cpu")
    for job in cell.jobs:
        pretend(job, 40.0, in_batches=95.0 + job.config.seed)
    batches, alone, aware = compare([cell], target, comparable=True)
    assert (batches.ours.mean, alone.ours.mean, aware.ours.mean) == (95.5, 40.0, 50.0)
    assert batches.difference == pytest.approx(95.5 - 97.32) and not math.isnan(batches.test.z)
    assert math.isnan(alone.difference) and math.isnan(aware.difference)


def test_where_images_weigh_the_same_a_large_first_task_weighs_more() -> None:
    counts = Counts.empty((1.0,), (500, 100)).with_row([[400]], [[400]]).with_row([[300], [90]], [[300], [90]])
    assert comparison._curve(counts, "agnostic", by_image=True) == pytest.approx([80, 65])
    assert comparison._curve(counts, "agnostic", by_image=False) == pytest.approx([80, 75])


def test_an_incremental_figure_is_the_mean_of_the_curve(tmp_path: Path) -> None:
    (cell,) = cells(TABLE1, ONE_CELL, tmp_path, None, "cpu")
    curves = np.array([[80.0, 60.0], [70.0, 60.0]])
    told = [comparison.Comparison(cell, "agnostic", curves, True, incremental) for incremental in (False, True)]
    assert [own.ours.mean for own in told] == [60.0, 67.5]


def test_unfinished_runs_do_not_count(tmp_path: Path) -> None:
    (cell,) = cells(TABLE1, ONE_CELL, tmp_path, None, "cpu")
    pretend(cell.jobs[0], 28.0)
    pretend(cell.jobs[1], 90.0, tasks=9)
    agnostic, _ = compare([cell], TABLE1, comparable=True)
    assert agnostic.ours.mean == 28.0 and agnostic.runs == "1 of 3"
    assert agnostic.difference == pytest.approx(-0.03) and math.isnan(agnostic.test.z)


def test_nothing_finished_is_no_number(tmp_path: Path) -> None:
    for own in compare(cells(TABLE1, ONE_CELL, tmp_path, None, "cpu"), TABLE1, comparable=True):
        assert own.runs == "0 of 3" and own.curves.shape == (0, 10)
        assert math.isnan(own.ours.mean) and math.isnan(own.difference)


def test_shortened_runs_are_not_compared(tmp_path: Path) -> None:
    (cell,) = cells(TABLE1, ONE_CELL, tmp_path, None, "cpu")
    for job in cell.jobs:
        pretend(job, 28.0 + job.config.seed)
    for own in compare([cell], TABLE1, comparable=False):
        assert math.isnan(own.difference) and math.isnan(own.test.z) and math.isnan(own.test.p)
