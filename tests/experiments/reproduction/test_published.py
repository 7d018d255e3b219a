from __future__ import annotations

import math
from collections import Counter

import pytest

from slimkern.experiments.reproduction.published import SOURCES, find, published
from slimkern.experiments.reproduction.targets import TARGETS, VARIANTS


def test_the_scrollnet_paper_is_there_in_full() -> None:
    rows = published("ScrollNet")
    assert Counter((row.table, row.dataset) for row in rows) == {
        ("Table 1", "cifar100"): 126,
        ("Table 2", "tiny-imagenet"): 126,
    }
    assert {row.variant for row in rows} == set(VARIANTS.values())
    assert {row.setting for row in rows} == {"agnostic", "aware"}
    assert {row.exemplars for row in rows if row.method in ("icarl", "bic", "lucir")} == {2000}
    assert all(0 < row.mean < 100 and row.std >= 0 for row in rows)


@pytest.mark.parametrize(
    ("names", "mean", "std"),
    [
        (("cifar100", "ft", "baseline", "agnostic", 10, 0), 15.17, 1.06),
        (("cifar100", "ewc", "ScrollNet-4", "aware", 20, 0), 67.97, 1.63),
        (("tiny-imagenet", "lucir", "ScrollNet-2", "agnostic", 5, 2000), 35.23, 0.29),
    ],
    ids=["FT", "EWC", "LUCIR"],
)
def test_cells_as_printed(names: tuple, mean: float, std: float) -> None:
    found = find("ScrollNet", *names)
    assert found is not None and (found.mean, found.std, found.runs) == (mean, std, None)


def test_nearly_all_means_are_those_of_three_runs() -> None:
    """Means of three accuracies with one decimal end in 0, 3 or 7."""
    last = Counter(round(100 * row.mean) % 10 for row in published("ScrollNet"))
    assert sum(last[digit] for digit in (0, 3, 7)) > 0.9 * sum(last.values())


def test_what_the_paper_does_not_have_is_not_found() -> None:
    assert find("ScrollNet", "cifar100", "ft", "baseline", "agnostic", 2, 0) is None
    assert find("ScrollNet", "cifar100", "icarl", "baseline", "agnostic", 10, 0) is None


def test_other_systems_are_further_rows() -> None:
    best = find("AutoActivator", "mnist", "autoactivator", "", "batches", 5, 0)
    assert best is not None and (best.mean, best.std, best.runs) == (97.32, 0.03, 5)
    # Its test batches tell the task: the paper has nothing for single images.
    assert find("AutoActivator", "mnist", "autoactivator", "", "agnostic", 5, 0) is None
    further = {(row.metric, row.table, row.dataset): row.mean for row in published("AutoActivator")}
    assert further["backward transfer", "Table 1", "fashion-mnist"] == -0.09
    assert further["nodes", "Table 4", "mnist"] == 670 and further["seconds", "Table 4", "mnist"] == 19.7
    rows = published("SCL-PNC")
    assert [(row.first_task_classes, row.tasks, row.mean) for row in rows] == [
        (50, 6, 70.92),
        (50, 11, 70.82),
        (None, 10, 64.90),
    ]
    assert all(math.isnan(row.std) and row.runs is None and row.remark for row in rows)


def test_a_larger_first_task_and_another_metric_are_other_figures() -> None:
    names = ("SCL-PNC", "cifar100", "scl-pnc", "", "agnostic", 6, 3312)
    found = find(*names, 50, "average incremental accuracy")
    assert found is not None and found.mean == 70.92
    assert find(*names, None, "average incremental accuracy") is None and find(*names, 50) is None


def test_every_system_has_a_source() -> None:
    for target in TARGETS.values():
        assert "arXiv" in SOURCES[target.system] and published(target.system)
