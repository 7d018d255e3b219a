from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

on_gpu = pytest.importorskip("on_gpu")
schedule = pytest.importorskip("campaign.schedule")
carry = pytest.importorskip("campaign.carry")
ROOT = Path(on_gpu.ROOT)
KILLED = "machine"


def processes_of(folder: Path, script: str) -> list[int]:
    """The processes that run a script for the campaign in a folder."""
    running = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environment, line = (entry / "environ").read_bytes(), (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if f"SLIMKERN_ROWS={folder}/rows.jsonl".encode() in environment and script.encode() in line:
            running.append(int(entry.name))
    return running


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a rehearsal whose step `KILLED` was killed."""
    folder = tmp_path_factory.mktemp("campaign")
    command = [sys.executable, on_gpu.__file__, "--rehearse", "--seconds", "3000", "--out", str(folder)]
    campaign = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while not (running := processes_of(folder, "bench_machine.py")):
        assert campaign.poll() is None, "the campaign ended before the step to kill began"
        time.sleep(0.01)
    for process in running:
        os.kill(process, signal.SIGKILL)
    assert campaign.wait() == 1
    return folder


def endings(folder: Path) -> dict[str, str]:
    lines = (folder / "journal.jsonl").read_text().splitlines()
    return {ending["step"]: ending["status"] for ending in map(json.loads, lines)}


def test_a_step_that_is_killed_loses_nothing_else(rehearsed: Path) -> None:
    expected = {step.name: "passed" for step in schedule.rehearsal(rehearsed)} | {KILLED: "crashed"}
    assert endings(rehearsed) == expected
    page = (rehearsed / "page.md").read_text()
    assert page.startswith("# What the campaign found") and f"- {KILLED} crashed" in page
    assert re.search(r"configurations of the convolutions: \d+ right", page)
    assert "| plain, eager |" in page
    # Some machines give eight files back, and no more.
    assert len([path for path in rehearsed.rglob("*") if path.is_file()]) <= 8


def test_a_second_call_finishes_the_rest(rehearsed: Path) -> None:
    before = (rehearsed / "journal.jsonl").read_text()
    command = [sys.executable, on_gpu.__file__, "--rehearse", "--out", str(rehearsed), "--only", KILLED]
    assert subprocess.run([*command, "--again"], stdout=subprocess.DEVNULL).returncode == 0
    assert set(endings(rehearsed).values()) == {"passed"}
    after = (rehearsed / "journal.jsonl").read_text()
    assert after.startswith(before) and after.count("\n") == before.count("\n") + 2
    assert "GB/s" in (rehearsed / "page.md").read_text()


def test_a_campaign_becomes_stored_rows(rehearsed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = pytest.importorskip("rows")
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["on_gpu.py", "import", str(rehearsed)])
    assert on_gpu.main() == 0
    stored = [row for path in tmp_path.glob("*.json") for row in json.loads(path.read_text())]
    assert {"training_step", "step_kernels"} <= {row["benchmark"] for row in stored}


def test_a_folder_without_rows_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["on_gpu.py", "import", str(tmp_path)])
    assert on_gpu.main() == 2
    assert f"{tmp_path} holds no rows.jsonl" in capsys.readouterr().err


def test_an_unknown_step_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["on_gpu.py", "--rehearse", "--out", str(tmp_path), "--only", "nonsense"])
    assert on_gpu.main() == 2
    assert "no such steps: nonsense; there are build, machine" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_does_nothing() -> None:
    done = subprocess.run([sys.executable, on_gpu.__file__], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("there is nothing to do without a GPU: torch ")


def test_every_command_of_the_schedule_takes_its_options(tmp_path: Path) -> None:
    """A benchmark that doesn't know an option would cost the minutes that it was to use."""
    for step in schedule.on_gpu(tmp_path):
        command = list(step.command)
        scripts = [place for place, word in enumerate(command) if "/benchmarks/" in word and word.endswith(".py")]
        if command[0] != sys.executable or not scripts:
            continue
        parsed = subprocess.run([*command, "--help"], capture_output=True, text=True)
        assert parsed.returncode == 0, parsed.stderr
        known = set(re.findall(r"--[a-z-]+", parsed.stdout))
        assert {word for word in command[scripts[0] :] if word.startswith("--")} <= known, step.name


WITHOUT_KERNELS = {"test_streams.py", "test_captured_step.py", "test_capturing.py"}
"""Of slimkern's own, outside of captures, which the sanitizer can't follow."""


def test_what_the_sanitizer_runs_is_there() -> None:
    """The subset is chosen by name: each file with GPU tests must have some of that name."""
    command = next(list(step.command) for step in schedule.on_gpu(ROOT) if step.name == "memory")
    chosen = command[command.index("-k") + 1]
    collect = [sys.executable, "-m", "pytest", "-q", "--collect-only", "tests/gpu", "-k", chosen]
    collected = subprocess.run(collect, cwd=ROOT, capture_output=True, text=True).stdout
    files = {file.name for file in (ROOT / "tests/gpu").glob("test_*.py")} - WITHOUT_KERNELS
    assert [name for name in sorted(files) if f"{name}::" not in collected] == []
    assert collected.count("::") < 60


def test_what_was_carried_is_put_in_place_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, carried = tmp_path / "checkout", tmp_path / "carried"
    (root / "slimkern").mkdir(parents=True)
    (carried / "lib").mkdir(parents=True)
    (carried / "triton").mkdir()
    for name in carry.LIBRARIES:
        (carried / "lib" / name).write_text("carried")
    (root / "slimkern" / carry.LIBRARIES[0]).write_text("built here")
    monkeypatch.setattr(carry, "ROOT", root)
    assert carry.unpack(carried) == {"TRITON_CACHE_DIR": str(carried / "triton")}
    kept = [(root / "slimkern" / name).read_text() for name in carry.LIBRARIES]
    assert kept == ["built here", "carried"]
    assert carry.unpack(tmp_path / "nothing") == {}
