from __future__ import annotations

import csv
import io
import math

import pytest

from slimkern.continual.metrics import Counts
from slimkern.experiments.runs import Run, group_by_seed
from slimkern.experiments.tables import Spread, Table, closing_table, width_table

BOTH = (0.5, 1.0)


def run(seed: int, *rows: list[list[int]], widths: tuple[float, ...] = (1.0,)) -> Run:
    """Agnostic answers are given; one more is right when the task is known."""
    counts = Counts.empty(widths, (10, 10))
    for row in rows:
        counts = counts.with_row([[right + 1 for right in task] for task in row], row)
    return Run(str(seed), {"method": "ewc", "widths": list(widths), "seed": seed, "tasks": 2}, counts if rows else None)


def test_closing_table_by_hand() -> None:
    runs = [run(0, [[8]], [[4], [8]]), run(1, [[6]], [[4], [6]])]
    ((label, tasks, n, *numbers),) = closing_table(group_by_seed(runs)).rows
    assert (label, tasks, n) == ("EWC", "2", 2)
    # Averages 60 and 50, aware 70 and 60, incremental 70 and 55, forgetting 40 and 20; deviations with n - 1.
    assert [str(number) for number in numbers] == [
        "55.00 ± 7.07",
        "65.00 ± 7.07",
        "62.50 ± 10.61",
        "30.00 ± 14.14",
        "-30.00 ± 14.14",
    ]


def test_unfinished_runs_are_marked_and_kept_apart() -> None:
    runs = [run(0, [[8]], [[4], [8]]), run(1, [[6]]), run(2)]
    rows = closing_table(group_by_seed(runs)).rows
    assert [row[1:3] for row in rows] == [("2", 1), ("1 of 2, unfinished", 1), ("0 of 2, unfinished", 1)]
    assert [str(cell) for cell in rows[1][3:]] == ["60.00", "70.00", "60.00", "n/a", "n/a"]
    assert [str(cell) for cell in rows[2][3:]] == ["n/a"] * 5


def test_answers_to_batches_stand_beside_those_to_single_images() -> None:
    alone = run(0, [[8]], [[4], [8]])
    config = {**alone.config, "method": "autoactivator", "test_batch": 100, "homogeneous": "task"}
    batches = run(0, [[9]], [[9], [7]]).counts
    table = closing_table(group_by_seed([Run("units", config, alone.counts, batches), run(1, [[6]], [[4], [6]])]))
    assert table.headers[3:6] == ("test batches", "in batches", "agnostic")
    assert [[str(cell) for cell in row[3:7]] for row in table.rows] == [
        ["of 100, all of one task", "80.00", "60.00", "70.00"],
        ["of 1", "n/a", "50.00", "60.00"],
    ]
    assert table.title.endswith("All but `in batches` of single images")


def test_width_table_has_a_column_a_width_and_skips_plain_networks() -> None:
    table = width_table(group_by_seed([run(0, [[8]]), run(0, [[5, 7]], widths=BOTH)]))
    assert table.headers[-2:] == ("width 0.5", "width 1")
    assert [(row[0], row[3], *map(str, row[4:])) for row in table.rows] == [
        ("EWC · ScrollNet-2", "task-agnostic", "50.00", "70.00"),
        ("EWC · ScrollNet-2", "task-aware", "60.00", "80.00"),
    ]


def test_a_width_that_a_network_lacks_stays_empty() -> None:
    runs = [run(0, [[5, 7]], widths=BOTH), run(0, [[4, 7]], widths=(0.25, 1.0))]
    assert [str(row[4]) for row in width_table(group_by_seed(runs)).rows] == ["n/a", "n/a", "40.00", "50.00"]


@pytest.mark.parametrize(
    ("values", "text"), [([], "n/a"), ([2.0], "2.00"), ([1, 3], "2.00 ± 1.41"), ([math.nan] * 2, "n/a")]
)
def test_spread_as_text(values: list[float], text: str) -> None:
    assert str(Spread.of(values)) == text


TABLE = Table("Title", ("run", "n", "accuracy"), (("a|b", 2, Spread(50.0, 0.125)), ("c", 1, Spread(7.0, math.nan))))


def test_markdown() -> None:
    assert TABLE.markdown().splitlines() == [
        "**Title**",
        "",
        "| run  |   n |     accuracy |",
        "| ---- | --: | -----------: |",
        r"| a\|b |   2 | 50.00 ± 0.12 |",
        "| c    |   1 |         7.00 |",
    ]


def test_csv_reads_back() -> None:
    assert list(csv.reader(io.StringIO(TABLE.csv()))) == [
        ["run", "n", "accuracy, mean", "accuracy, std"],
        ["a|b", "2", "50.0", "0.125"],
        ["c", "1", "7.0", ""],
    ]


def test_rich_table_shows_every_cell_as_it_is() -> None:
    console = pytest.importorskip("rich.console").Console(file=io.StringIO(), width=80)
    console.print(Table("Title", ("run",), (("[red]a",),)).rich())
    assert "[red]a" in console.file.getvalue()


def test_latex_escapes_what_it_would_take_for_commands() -> None:
    table = Table("50 % of {a}", ("run_1", "n"), (("A & B · 2†", 3), (r"\x", 4)))
    assert table.latex().splitlines() == [
        r"\begin{table}",
        r"\centering",
        r"\caption{50 \% of \{a\}}",
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"run\_1 & n \\",
        r"\midrule",
        r"A \& B $\cdot$ 2$^\dagger$ & 3 \\",
        r"\textbackslash{}x & 4 \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    assert (
        str(Spread(1.0, 2.0)) == "1.00 ± 2.00" and r"1.00 $\pm$ 2.00" in Table("", ("a",), ((Spread(1, 2),),)).latex()
    )
