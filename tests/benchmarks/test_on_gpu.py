from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch

kernel_cache = pytest.importorskip("kernel_cache")
on_gpu = pytest.importorskip("on_gpu")
schedule = pytest.importorskip("campaign.schedule")
carry = pytest.importorskip("campaign.carry")
importing = pytest.importorskip("campaign.importing")
rows = pytest.importorskip("rows")
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


def test_a_campaign_becomes_stored_rows(
    rehearsed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    results, choices = tmp_path / "results", tmp_path / "choices.json"
    choices.write_text('{"version": 3, "devices": {"a GPU": {"known": {"torch": 1}}}}')
    (rehearsed / "slimkern").mkdir(exist_ok=True)
    measured = {"version": 3, "devices": {"a GPU, torch 9": {"known": {"packed": 2}, "new": {}}, "b, torch 9": {}}}
    (rehearsed / "slimkern" / "choices-3.json").write_text(json.dumps(measured))
    monkeypatch.setattr(rows, "RESULTS", results)
    monkeypatch.setattr(importing, "CHOICES", choices)
    monkeypatch.setattr(sys, "argv", ["on_gpu.py", "import", str(rehearsed)])
    assert on_gpu.main() == 2  # a rehearsal trains no network that the README shows
    told = capsys.readouterr().err
    assert "holds no rows of training steps" in told and f"Stored all the same: {results}" in told
    stored = [row for path in results.glob("*.json") for row in json.loads(path.read_text())]
    assert {"training_step", "step_kernels"} <= {row["benchmark"] for row in stored}
    kept = json.loads(choices.read_text())["devices"]
    assert kept == {"a GPU": {"known": {"torch": 1, "packed": 2}, "new": {}}, "b": {}}


def test_rows_of_the_network_that_the_readme_shows_become_its_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("README.md", "docs"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    shutil.copytree(ROOT / "benchmarks" / "results", tmp_path / "results")
    known = json.loads(next((ROOT / "benchmarks" / "results").glob("*.json")).read_text())
    other = [{**row, "device": "NVIDIA Something"} for row in known if row["benchmark"] == "training_step"]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in other))
    monkeypatch.setattr(rows, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(importing, "README", tmp_path / "README.md")
    monkeypatch.setattr(importing, "PICTURES", tmp_path / "docs")
    monkeypatch.setattr(sys, "argv", ["on_gpu.py", "import", str(tmp_path)])
    assert on_gpu.main() == 0
    assert "NVIDIA Something" in (tmp_path / "README.md").read_text()


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


def test_every_command_of_the_schedule_takes_its_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A benchmark that doesn't know an option would cost the minutes that it was to use."""
    for step in schedule.on_gpu(tmp_path):
        program, script, *options = step.command
        if program != sys.executable or Path(script).suffix != ".py":
            continue
        monkeypatch.setattr(sys, "argv", [script, "--help"])
        with pytest.raises(SystemExit):
            importlib.import_module(Path(script).stem).main()
        known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
        assert {word for word in options if word.startswith("--")} <= known, step.name


WITHOUT_KERNELS = {f"test_{name}.py" for name in ("streams", "captured_step", "capturing", "training_steps")}
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


def test_the_sanitizer_knows_all_our_kernels() -> None:
    triton = [name for path in (ROOT / "slimkern/kernels").glob("*.py") for name in entries(path.read_text())]
    assert {"gather", "sum_boxes"} <= set(triton)
    assert [name for name in triton if not re.search(schedule.KERNELS, name)] == []
    sources = [path.read_text() for path in (ROOT / "csrc/cuda").glob("*.cu")]
    assert all("namespace slimkern" in source for source in sources if "__global__" in source)


def entries(source: str) -> list[str]:
    """The kernels of a file in Triton's language: what a program begins with."""
    functions = re.split(r"@triton\.jit\n", source)[1:]
    return [re.match(r"def (\w+)", own)[1] for own in functions if "tl.program_id" in own]


def test_what_was_carried_is_put_in_place_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, carried = tmp_path / "checkout", tmp_path / "carried"
    (root / "slimkern").mkdir(parents=True)
    (carried / "lib").mkdir(parents=True)
    for name in carry.LIBRARIES:
        (carried / "lib" / name).write_text("carried")
    (root / "slimkern" / carry.LIBRARIES[0]).write_text("built here")
    monkeypatch.setattr(carry, "ROOT", root)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    for folder in (carried, tmp_path / "nothing"):
        assert carry.unpack(folder) == {"PYTHONPATH": str(root)}
        kept = [(root / "slimkern" / name).read_text() for name in carry.LIBRARIES]
        assert kept == ["built here", "carried"]


def test_wheels_of_what_is_missing_are_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wheels").mkdir()
    with zipfile.ZipFile(tmp_path / "wheels" / "rarely_met-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("rarely_met.py", "")
        wheel.writestr("rarely_met-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: rarely-met\nVersion: 1.0\n")
        wheel.writestr("rarely_met-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("rarely_met-1.0.dist-info/RECORD", "")
    monkeypatch.setattr(carry, "WHEELS", {"rarely-met": "rarely_met"})
    variables = carry.unpack(tmp_path)
    assert str(tmp_path / "site") in variables["PYTHONPATH"]
    assert (tmp_path / "site" / "rarely_met.py").is_file()


def test_a_carried_cache_says_where_it_lies_now(tmp_path: Path) -> None:
    cache, carried = tmp_path / "cache", tmp_path / "carried"
    (cache / "KEY").mkdir(parents=True)
    for name in ("gather.cubin", "gather.json", "gather.llir"):
        (cache / "KEY" / name).write_text(name)
    paths = {name: f"/elsewhere/KEY/{name}" for name in ("gather.cubin", "gather.json", "gather.llir")}
    (cache / "KEY" / "__grp__gather.json").write_text(json.dumps({"child_paths": paths}))
    kernel_cache.slim(cache)
    shutil.make_archive(str(carried / "triton"), "gztar", cache)
    for _ in range(2):  # a second campaign finds it in place
        place = Path(carry.unpack(carried)["TRITON_CACHE_DIR"])
    told = json.loads((place / "KEY" / "__grp__gather.json").read_text())["child_paths"]
    assert told == {name: str(place / "KEY" / name) for name in ("gather.cubin", "gather.json")}
    assert all(Path(path).is_file() for path in told.values())
