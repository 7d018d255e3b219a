from __future__ import annotations

from typing import Any

import pytest

from slimkern.continual.config import ConfigError
from slimkern.experiments.reproduction.selection import TARGETS, Selection

TABLE1, TABLE2 = TARGETS["table1"], TARGETS["table2"]


def test_all_of_the_paper_is_the_default() -> None:
    selection = Selection()
    assert selection.all_methods() == ("ft", "lwf", "ewc", "mas", "icarl", "bic", "lucir")
    assert selection.all_splits() == (5, 10, 20)
    assert (selection.widths, selection.seeds) == ((1, 2, 4), (0, 1, 2))
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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ("ft", "gem")}, "methods: gem unknown here; allowed: ft, lwf, ewc"),
        ({"splits": (7,)}, "splits: 7 unknown here; allowed: 5, 10, 20"),
        ({"widths": (1, 8)}, "widths: 8 unknown here; allowed: 1, 2, 4"),
        ({"widths": ()}, "widths: none were given"),
        ({"seeds": ()}, "seeds: none were given"),
        ({"seeds": (1, 1)}, r"seeds=\(1, 1\) names one twice"),
        ({"splits": (5,), "tasks": 2}, r"splits=\(5,\) and tasks=2: give only one of them"),
    ],
    ids=str,
)
def test_a_selection_that_can_not_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Selection(**changes)


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
