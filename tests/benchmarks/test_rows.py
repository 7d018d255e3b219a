from __future__ import annotations

import json
from pathlib import Path

import pytest

rows = pytest.importorskip("rows")


def test_calls_take_turns_and_warm_up_untimed() -> None:
    called: list[str] = []
    times = rows.in_turns({name: lambda name=name: called.append(name) for name in "ab"}, 3, warmup=1, inner=2)
    assert "".join(called) == "aabb" * 4
    assert [len(own) for own in times.values()] == [3, 3] and all(own > 0 for own in times["a"] + times["b"])


def test_a_budget_ends_the_rounds_but_for_the_fewest() -> None:
    called: list[str] = []
    calls = {"a": lambda: called.append("timed")}
    times = rows.in_turns(calls, 50, warmup=1, budget=0.0, before=called.append)
    assert len(times["a"]) == rows.FEWEST and called == ["a", "timed"] * (1 + rows.FEWEST)
    assert len(rows.in_turns(calls, 5, budget=60.0)["a"]) == 5


def test_ratios_are_taken_repetition_by_repetition() -> None:
    assert rows.ratios({"own": [2.0, 9.0], "other": [1.0, 3.0]}, "own", "other") == [2, 3]


def test_percentiles() -> None:
    assert rows.percentiles([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == {"p20": 2, "p50": 3.5, "p80": 5}
    assert rows.percentiles([7.0]) == {"p20": 7, "p50": 7, "p80": 7}


def test_a_row_says_where_it_comes_from() -> None:
    own = rows.row("step", {"batch": 64}, "plain", [0.1, 0.2, 0.3], {"images/s": 1234567.0, "launches": 3})
    assert own["milliseconds"]["p50"] == 200 and own["repetitions"] == 3
    assert own["figures"] == {"images/s": 1234600.0, "launches": 3}
    assert set(own) == {
        "benchmark", "case", "name", "milliseconds", "repetitions", "figures", "device", "versions", "commit",
        "clock_mhz", "measured",
    }  # fmt: skip
    assert own["device"].startswith("CPU ") and own["versions"]["torch"]
    json.dumps(own, allow_nan=False)


def test_saved_rows_replace_those_they_repeat(tmp_path: Path) -> None:
    first = [rows.row("step", {"batch": batch}, "plain", [1.0]) for batch in (64, 128)]
    (path,) = rows.save(first, tmp_path)
    assert rows.save([rows.row("step", {"batch": 64}, "plain", [2.0])], tmp_path) == [path]
    stored = json.loads(path.read_text())
    assert [(own["case"]["batch"], own["milliseconds"]["p50"]) for own in stored] == [(64, 2000), (128, 1000)]
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_copying_has_a_bandwidth() -> None:
    assert 1e8 < rows.copy_bandwidth(megabytes=8, repetitions=2) < 1e12
