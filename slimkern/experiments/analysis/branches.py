"""What SCL-PNC's runs tell beside their counts: how many branches they grew, and the best epoch on the test images."""

from __future__ import annotations

from collections.abc import Sequence

from slimkern.experiments.analysis.movement import Events, by_task
from slimkern.experiments.runs import Group
from slimkern.experiments.tables import Spread, Table


def branch_table(groups: Sequence[Group], events: Sequence[Sequence[Events]]) -> Table:
    """One row a group and task; n/a for the best on test where a run wasn't asked for it.

    Args:
        groups: runs; those of other methods are left out.
        events: of each run of each group.
    """
    rows: list[tuple[str | int | Spread, ...]] = []
    for group, told in zip(groups, events, strict=True):
        grown, best = ([by_task(own, kind) for own in told] for kind in ("grown", "best on test"))
        for task in sorted(set.intersection(*map(set, grown))):
            noted = [own[task] for own in best if task in own]
            numbers = [
                [own[task]["branches"] for own in grown],
                [own["last accuracy"] for own in noted],
                [own["accuracy"] for own in noted],
            ]
            rows.append((group.label, task + 1, *map(Spread.of, numbers)))
    headers = ("runs", "after task", "branches", "last epoch, %", "best epoch on test, %")
    title = "Branches of SCL-PNC, and its task-agnostic accuracy at the epoch that the test images themselves chose"
    return Table(title, headers, tuple(rows))
