from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimkern.continual.metrics import (
    Counts,
    accuracy,
    average_accuracy,
    average_incremental_accuracy,
    backward_transfer,
    forgetting,
)

NAN = float("nan")


def counts_of(*rows: list[int], total: int = 10, tasks: int | None = None) -> Counts:
    """One width; the answers are the same whether or not the task is known."""
    counts = Counts.empty((1.0,), (total,) * (tasks or len(rows)))
    for row in rows:
        column = np.array(row)[:, None]
        counts = counts.with_row(column, column)
    return counts


@st.composite
def any_counts(draw: st.DrawFn) -> Counts:
    widths = draw(st.sampled_from([(1.0,), (0.5, 1.0), (0.25, 0.5, 0.75, 1.0)]))
    totals = tuple(draw(st.lists(st.integers(1, 50), min_size=1, max_size=5)))
    counts = Counts.empty(widths, totals)
    for seen in range(1, draw(st.integers(0, len(totals))) + 1):
        rows = [[[draw(st.integers(0, total)) for _ in widths] for total in totals[:seen]] for _ in range(2)]
        counts = counts.with_row(*rows)
    return counts


def test_the_worked_example_by_hand() -> None:
    counts = counts_of([5], [8, 6], [6, 6, 7])
    np.testing.assert_allclose(accuracy(counts, "agnostic"), [[50, NAN, NAN], [80, 60, NAN], [60, 60, 70]])
    np.testing.assert_allclose(average_accuracy(counts, "agnostic"), [50, 70, 190 / 3])
    assert average_incremental_accuracy(counts, "agnostic") == pytest.approx((50 + 70 + 190 / 3) / 3)
    np.testing.assert_allclose(forgetting(counts, "agnostic"), [NAN, -30, 10])
    np.testing.assert_allclose(backward_transfer(counts, "agnostic"), [NAN, 30, 5])


def test_forgetting_and_backward_transfer_mirror_each_other_where_tasks_only_decay() -> None:
    counts = counts_of([9], [6, 8], [6, 4, 9])
    np.testing.assert_allclose(forgetting(counts, "aware"), [NAN, 30, 35])
    np.testing.assert_allclose(backward_transfer(counts, "aware"), [NAN, -30, -35])


def test_each_task_weighs_the_same_whatever_its_size() -> None:
    counts = Counts.empty((1.0,), (10, 100)).with_row([[10]], [[10]]).with_row([[10], [0]], [[10], [0]])
    np.testing.assert_allclose(average_accuracy(counts, "aware"), [100, 50])


def test_settings_and_widths_are_kept_apart() -> None:
    counts = Counts.empty((0.5, 1.0), (10,)).with_row([[7, 8]], [[5, 6]])
    found = {(s, w): accuracy(counts, s, w).item() for s in ("aware", "agnostic") for w in (0.5, 1.0)}
    assert found == {("aware", 0.5): 70, ("aware", 1.0): 80, ("agnostic", 0.5): 50, ("agnostic", 1.0): 60}


def test_a_run_without_a_finished_task_has_empty_metrics() -> None:
    counts = Counts.empty((1.0,), (10, 10))
    assert accuracy(counts, "aware").shape == (0, 2)
    assert average_accuracy(counts, "aware").shape == (0,)
    assert np.isnan(average_incremental_accuracy(counts, "aware"))
    assert not counts.complete and counts.finished_tasks == 0


@given(any_counts())
def test_counts_survive_json(counts: Counts) -> None:
    assert Counts.from_json(json.loads(json.dumps(counts.to_json()))) == counts


@given(any_counts())
def test_metrics_keep_their_ranges_and_shapes(counts: Counts) -> None:
    done = counts.finished_tasks
    averages = average_accuracy(counts, "agnostic")
    assert averages.shape == (done,) and np.all((averages >= 0) & (averages <= 100))
    forgot, transferred = forgetting(counts, "agnostic"), backward_transfer(counts, "agnostic")
    assert forgot.shape == transferred.shape == (done,)
    # The best earlier accuracy is at least the one when the task was learned.
    assert np.all(forgot[1:] >= -transferred[1:] - 1e-9)


def test_counts_can_not_be_changed_from_outside() -> None:
    row = np.array([[3]])
    counts = Counts.empty((1.0,), (10,)).with_row(row, row)
    row[:] = 9
    assert counts.aware.item() == 3
    with pytest.raises(ValueError, match="read-only"):
        counts.aware[0, 0, 0] = 9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"widths": [0.5, 0.25, 1.0]}, "ascending", id="widths-out-of-order"),
        pytest.param({"widths": [0.25, 0.5]}, r"end with 1\.0", id="no-full-width"),
        pytest.param({"widths": 1.0}, "lists of numbers", id="widths-a-number"),
        pytest.param({"totals": [10, 0]}, "positive", id="task-without-images"),
        pytest.param(
            {"aware": [[[3], [1]]]}, r"aware\[0, 1, 0\] is 1; after task 0 task 1 allows 0 to 0", id="unseen-task"
        ),
        pytest.param({"aware": [[[11], [0]]]}, "allows 0 to 10", id="more-than-there-are"),
        pytest.param({"aware": [[[-1], [0]]]}, "is -1", id="negative"),
        pytest.param({"aware": [[[3.5], [0]]]}, "must hold integers", id="fractions"),
        pytest.param({"aware": [[[3], []]]}, "regular array", id="ragged"),
        pytest.param({"aware": [[3, 0]]}, "on task, width", id="missing-axis"),
        pytest.param({"aware": []}, "as many", id="rows-differ"),
        pytest.param({"extra": 1}, "need the keys", id="unknown-key"),
    ],
)
def test_damaged_json_is_refused(change: dict, message: str) -> None:
    data = counts_of([3], tasks=2).to_json() | change
    with pytest.raises(ValueError, match=message):
        Counts.from_json(data)


def test_a_row_must_have_one_entry_per_seen_task() -> None:
    with pytest.raises(ValueError, match=r"shape \(2, 1\); after task 0 it must be \(1, 1\)"):
        Counts.empty((1.0,), (10, 10)).with_row([[1], [2]], [[1], [2]])


def test_no_row_after_the_last_task() -> None:
    with pytest.raises(ValueError, match="all 1 tasks"):
        counts_of([3]).with_row([[1], [1]], [[1], [1]])


@pytest.mark.parametrize(("setting", "width"), [("aware", 0.3), ("both", 1.0)])
def test_unknown_setting_or_width_is_named(setting: str, width: float) -> None:
    with pytest.raises(ValueError, match=f"is {width}|is '{setting}'"):
        accuracy(counts_of([3]), setting, width)  # pyright: ignore[reportArgumentType]
