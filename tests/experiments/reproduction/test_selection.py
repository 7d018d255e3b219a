from __future__ import annotations

from typing import Any

import pytest

from slimkern.continual.config import ConfigError
from slimkern.experiments.reproduction.selection import Selection
from slimkern.experiments.reproduction.targets import TARGETS, TargetName

TABLE1, TABLE2 = TARGETS["table1"], TARGETS["table2"]


def test_all_of_the_paper_is_the_default() -> None:
    selection = Selection()
    assert selection.all_methods(TABLE1) == ("ft", "lwf", "ewc", "mas", "icarl", "bic", "lucir")
    assert [split.tasks for split in selection.all_splits(TABLE1)] == [5, 10, 20]
    assert (selection.all_widths(TABLE1), selection.all_seeds(TABLE1)) == ((1, 2, 4), (0, 1, 2))
    assert selection.differences(TABLE1) == () and not selection.shortened(TABLE1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": 2}, ("2 of 200 epochs",)),
        ({"classes": 20, "channels": 8}, ("20 of 100 classes", "8 of 64 channels")),
        ({"tasks": 2}, ("2 tasks, where the paper has 5, 10, 20",)),
        ({"tasks": 10}, ()),
        ({"epochs": 200, "classes": 100, "channels": 64}, ()),
        ({"seeds": (7,), "widths": (4,), "methods": ("ft",), "splits": (10,)}, ()),
    ],
    ids=str,
)
def test_differences_from_the_paper_are_said(changes: dict[str, Any], words: tuple[str, ...]) -> None:
    assert Selection(**changes).differences(TABLE1) == words


def test_a_data_set_has_its_own_number_of_classes() -> None:
    selection = Selection(classes=100)
    assert selection.differences(TABLE1) == () and selection.differences(TABLE2) == ("100 of 200 classes",)


def test_other_systems_have_splits_widths_and_seeds_of_their_own() -> None:
    units, branches = TARGETS["autoactivator"], TARGETS["scl-pnc"]
    assert Selection().all_methods(units) == ("autoactivator",) and Selection().all_methods(branches) == ("scl-pnc",)
    assert [str(split) for split in Selection().all_splits(units)] == ["mnist", "fashion-mnist"]
    assert [str(split) for split in Selection().all_splits(branches)] == ["B50Inc10", "B50Inc5", "B10Inc10"]
    assert [str(split) for split in Selection(splits=(11,)).all_splits(branches)] == ["B50Inc5"]
    assert [str(split) for split in Selection(datasets=("mnist",)).all_splits(units)] == ["mnist"]
    assert Selection().all_widths(units) == (1,) and Selection().all_seeds(units) == (0, 1, 2, 3, 4)


@pytest.mark.parametrize(
    ("target", "changes", "message"),
    [
        ("table1", {"methods": ("ft", "gem")}, "methods: gem unknown here; allowed: ft, lwf, ewc"),
        (
            "table1",
            {"methods": ("autoactivator",)},
            "autoactivator unknown here; allowed: ft, .*lucir, joint, freezing$",
        ),
        ("autoactivator", {"methods": ("ft",)}, "methods: ft unknown here; allowed: autoactivator$"),
        ("autoactivator", {"epochs": 2}, "epochs=2: runs of autoactivator can't be shortened so; allowed: classes"),
        ("autoactivator", {"widths": (4,)}, "widths: 4 unknown here; allowed: 1$"),
        (
            "autoactivator",
            {"datasets": ("cifar100",)},
            "datasets: cifar100 unknown here; allowed: mnist, fashion-mnist",
        ),
        ("table1", {"splits": (7,)}, "splits: 7 unknown here; allowed: 5, 10, 20"),
        ("table1", {"widths": (1, 8)}, "widths: 8 unknown here; allowed: 1, 2, 4"),
        ("table1", {"seeds": (1, 1)}, r"seeds=\(1, 1\) names one twice"),
        ("table1", {"splits": (5,), "tasks": 2}, r"splits=\(5,\) and tasks=2: give only one of them"),
    ],
    ids=str,
)
def test_a_selection_that_can_not_be_is_refused(target: TargetName, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Selection(**changes).check(TARGETS[target])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 201}, "epochs=201 must lie in 1 to 200: runs can only be shortened"),
        ({"epochs": 0}, "epochs=0 must lie in 1 to 200"),
        ({"classes": 101}, "classes=101 must lie in 1 to 100"),
        ({"channels": 128}, "channels=128 must lie in 1 to 64"),
    ],
    ids=str,
)
def test_runs_can_only_be_shortened(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Selection(**changes).shortened(TABLE1)
