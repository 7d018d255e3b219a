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

pytest.importorskip("triton")

import kernel_cache
import on_gpu
import rows
from campaign import carry, importing, schedule
from campaign.runner import CampaignError

from slimkern.kernels.choice_table import VERSION

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


def test_a_rehearsal_says_that_it_shows_nothing_of_a_gpu(rehearsed: Path) -> None:
    after = (rehearsed / "page.md").read_text().split("## What to do next")[1]
    assert "all ran" not in after and re.search(r"see why \d+ tests were skipped", after)


def test_a_folder_is_for_one_campaign(rehearsed: Path) -> None:
    with pytest.raises(CampaignError, match=r"is another campaign's, of .*rehearsal"):
        on_gpu.claim(rehearsed, {"schedule": "gpu", "commit": "unknown", "device": "a GPU"})


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of campaigns, beside what they are imported into."""
    for name in ("README.md", "docs", "benchmarks/results"):
        source, target = ROOT / name, tmp_path / "into" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    choices = tmp_path / "into" / "choices.json"
    choices.write_text(json.dumps({"version": VERSION, "devices": {"a GPU": {"known": {"torch": ENTRY}}}}))
    monkeypatch.setattr(rows, "RESULTS", tmp_path / "into" / "benchmarks" / "results")
    monkeypatch.setattr(importing, "README", tmp_path / "into" / "README.md")
    monkeypatch.setattr(importing, "PICTURES", tmp_path / "into" / "docs")
    monkeypatch.setattr(importing, "CHOICES", choices)
    folder = tmp_path / "campaign"
    (folder / "slimkern").mkdir(parents=True)
    known = json.loads(next((ROOT / "benchmarks" / "results").glob("*.json")).read_text())
    lines = [{**row, "device": "a GPU", "step": "step"} for row in known if row["benchmark"] == "training_step"]
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    devices = {"a GPU, torch 9": {"known": {"packed": ENTRY}, "new": {}}, "b, torch 9": {}}
    (folder / "slimkern" / f"choices-{VERSION}.json").write_text(json.dumps({"version": VERSION, "devices": devices}))
    monkeypatch.setattr(sys, "argv", ["on_gpu.py", "import", str(folder)])
    return folder


ENTRY = {"configuration": None, "microseconds": 1.5}


def test_a_campaign_becomes_rows_choices_and_the_table_of_the_readme(stored: Path) -> None:
    assert on_gpu.main() == 0
    into = stored.parent / "into"
    new = json.loads((into / "benchmarks" / "results" / "a-gpu.json").read_text())
    assert new and all("step" not in row for row in new)
    assert "a GPU" in (into / "README.md").read_text()
    kept = json.loads((into / "choices.json").read_text())["devices"]
    assert kept == {"a GPU": {"known": {"torch": ENTRY, "packed": ENTRY}, "new": {}}, "b": {}}


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("campaign.json", '{"schedule": "rehearsal"}', "its tiny shapes are no measurements"),
        ("rows.jsonl", '{"benchmark": "x"}', "holds a row without case, name"),
        (f"slimkern/choices-{VERSION}.json", "[]", "isn't a table"),
        (f"slimkern/choices-{VERSION}.json", '{"version": 1, "devices": {}}', "isn't a table"),
        (f"slimkern/choices-{VERSION}.json", '{"version": 3, "devi', "can't be read"),
    ],
    ids=["rehearsal", "row", "list", "version", "cut"],
)
def test_what_is_damaged_or_rehearsed_is_not_stored(
    stored: Path, name: str, text: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (stored / name).write_text(text + "\n")
    before = {path: path.read_bytes() for path in (stored.parent / "into").rglob("*") if path.is_file()}
    assert on_gpu.main() == 2
    assert reason in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (stored.parent / "into").rglob("*") if path.is_file()} == before


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


def test_without_torch_it_says_so() -> None:
    done = subprocess.run([sys.executable, "-S", on_gpu.__file__], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "there is nothing to do without a GPU: torch is not installed\n"


@pytest.mark.parametrize("variable", ["CUDA_HOME", "CUDA_PATH"])
@pytest.mark.parametrize("name", ["compute-sanitizer", "ncu"])
def test_tools_of_a_toolkit_that_is_named_are_found(
    name: str, variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "bin" / name
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv(variable, str(tmp_path))
    assert schedule.tool_of_toolkit(name) == str(tool)


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
    told: list[str] = []
    monkeypatch.delenv("PYTHONPATH", raising=False)
    for folder in (carried, tmp_path / "nothing"):
        assert carry.unpack(folder, told.append) == {"PYTHONPATH": str(root)}
        kept = [(root / "slimkern" / name).read_text() for name in carry.LIBRARIES]
        assert kept == ["built here", "carried"]
    assert told == [f"{carry.LIBRARIES[0]} of the checkout is used, not the one that was carried, which differs"]


def test_what_was_damaged_on_the_way_is_told_and_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(carry, "WHEELS", {"rarely-met": "rarely_met"})
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "rarely_met-1.0-py3-none-any.whl").write_text("no wheel")
    (tmp_path / "triton.tar.gz").write_text("no archive")
    told: list[str] = []
    assert set(carry.unpack(tmp_path, told.append)) == {"PYTHONPATH"}
    assert [line.split(" that were carried ")[0] for line in told] == ["the wheels", "the kernels"]


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
