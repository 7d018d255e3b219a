from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from slimkern import __main__ as entry
from tests.experiments.sweeps.small_jobs import until

pytest.importorskip("tyro")
ROOT = Path(__file__).resolve().parents[1]
SHORT = "--classes 2 --tasks 2 --epochs 2 --channels 4 --methods ft --widths 1 4 --seeds 0"


Typed = Callable[[str], tuple[int, str, str]]


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Typed:
    """Types a command line; its exit status, what it printed, and its complaint."""

    def run(line: str) -> tuple[int, str, str]:
        command = ["slimkern", "reproduce", *line.split(), "--device", "cpu", "--out", str(tmp_path / "out")]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as end:
            entry.main()
        captured = capsys.readouterr()
        return int(end.value.code or 0), captured.out, captured.err

    return run


def start(line: str, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "slimkern", "reproduce", *line.split(), "--device", "cpu", "--out", str(out)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "2"}, text=True, **pipes)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("table1 --methods gem", "methods: gem unknown here; allowed: ft, lwf, ewc"),
        ("table1 --widths 8", "widths: 8 unknown here; allowed: 1, 2, 4"),
        ("figure4 --splits 7", "splits: 7 unknown here; allowed: 5, 10, 20"),
        ("table2 --seeds -1", "seed=-1 must lie in 0 to 4294967295"),
        ("table1 --parallel 0", "parallel=0 must be above 0"),
        ("table1", "cifar100 needs a data folder and none was given"),
    ],
)
def test_a_mistake_is_answered_in_one_line_and_nothing_is_written(
    typed: Typed, tmp_path: Path, line: str, message: str
) -> None:
    status, printed, complaint = typed(line)
    assert status == 1 and not printed
    assert complaint.startswith(f"slimkern: {message}") and complaint.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_unknown_table_is_answered_with_those_there_are(typed: Typed) -> None:
    status, printed, complaint = typed("table3")
    assert status != 0 and not printed and "Traceback" not in complaint
    assert all(name in complaint for name in ("table1", "table2", "figure4", "figure5"))


def test_a_dry_run_only_lists_the_runs(typed: Typed, tmp_path: Path) -> None:
    status, printed, complaint = typed(f"table1 --dry-run {SHORT}")
    assert status == 0 and not complaint
    assert "**2 runs**" in printed and printed.count("| missing | 0 % ") == 2
    assert not (tmp_path / "out").exists()


def test_a_reproduction_that_is_killed_twice_goes_on_and_ends_in_a_report(tmp_path: Path) -> None:
    """Once in the first task, once in the second, which is learned with exemplars; of which 6 classes have enough."""
    root = os.environ.get("SLIMKERN_DATA", "")
    if not (Path(root) / "cifar-100-python").is_dir():
        pytest.skip("set SLIMKERN_DATA to a folder that holds cifar-100-python/ to read the official files")
    short = "--classes 6 --tasks 2 --epochs 2 --channels 4 --methods icarl --widths 1 4 --seeds 0"
    line, runs = f"table1 {short} --root {root} --parallel 2", tmp_path / "runs"

    def told(pattern: str) -> bool:
        assert process.poll() is None, process.communicate()[1]
        return any(pattern in file.read_text() for file in runs.glob("*/events.jsonl"))

    for epoch in ('"epoch_finished", "task": 0', '"epoch_finished", "task": 1'):
        process = start(line, tmp_path)
        until(lambda: told(epoch), "no epoch", seconds=300)  # noqa: B023
        process.kill()
        process.communicate()
    process = start(line, tmp_path)
    printed, complaint = process.communicate(timeout=300)
    assert process.returncode == 0, complaint
    assert printed.count("on its way, again, after task ") >= 1 and printed.count(": finished (") == 2
    report = (tmp_path / "table1-shortened.md").read_text()
    assert "SHORTENED: 2 of 200 epochs, 6 of 100 classes, 4 of 64 channels, 2 tasks" in report
    assert report.count("| ours ") == 2 and "missing |" not in report
