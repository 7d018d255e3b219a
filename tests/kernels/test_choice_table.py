from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton")

from slimkern.kernels import choice_table
from slimkern.kernels.choice_table import SHIPPED, VERSION, Table, cache_file, fingerprint, read_table
from slimkern.kernels.configurations import FAMILIES
from slimkern.kernels.geometry import Geometry
from slimkern.kernels.problem import Problem
from slimkern.kernels.tuning import Tuner

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
ROOT = Path(__file__).resolve().parents[2]
LAYER = Problem("forward", "bfloat16", 64, (4, 4), (8, 16), (8, 16), Geometry((3, 3), padding=(1, 1)))
PROCESSES, ENTRIES = 2, 100
WRITER = """
import sys
from pathlib import Path
from slimkern.kernels.choice_table import add_entry
path, process, entries = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
print("ready", flush=True)
sys.stdin.read()
for number in range(entries):
    add_entry(path, "here", f"{process}-{number}", "torch", {"configuration": None, "microseconds": 1.0})
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "choices.json"


def test_processes_do_not_lose_each_others_entries(own: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(own)]
    writers = [
        subprocess.Popen(
            [*command, str(process), str(ENTRIES)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
        )
        for process in range(PROCESSES)
    ]
    for writer in writers:
        assert writer.stdout and writer.stdout.readline() == b"ready\n"
    for writer in writers:  # they begin together
        assert writer.stdin
        writer.stdin.close()
    assert [writer.wait() for writer in writers] == [0] * PROCESSES
    expected = {f"{process}-{number}" for process in range(PROCESSES) for number in range(ENTRIES)}
    assert set(read_table(own)["here"]) == expected
    assert list(own.parent.iterdir()) == [own]


def test_without_locks_entries_are_kept_all_the_same(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*arguments: object) -> None:
        raise OSError("no locks available")

    for locks in (None, SimpleNamespace(flock=flock, LOCK_EX=2)):
        monkeypatch.setattr(choice_table, "fcntl", locks)
        choice_table.add_entry(own, "here", str(locks), "torch", {"configuration": None, "microseconds": 1.0})
    assert len(read_table(own)["here"]) == 2


def test_a_fingerprint_tells_what_measurements_depend_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(choice_table, "_driver", lambda: "580.1")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91002)
    seen = {fingerprint(CPU), fingerprint(CUDA)}
    assert fingerprint(CUDA).startswith("a GPU, ")
    for owner, name, other in (
        (torch.cuda, "get_device_name", lambda device: "another GPU"),
        (torch.cuda, "get_device_capability", lambda device: (10, 0)),
        (choice_table, "_driver", lambda: "580.2"),
        (torch.backends.cudnn, "version", lambda: 91003),
        (torch, "__version__", "9.9"),
        (choice_table.triton, "__version__", "9.9"),
        (choice_table, "_sources", lambda: "others"),
    ):
        with monkeypatch.context() as changed:
            changed.setattr(owner, name, other)
            assert fingerprint(CUDA) not in seen
            seen.add(fingerprint(CUDA))


def test_other_kernels_have_another_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice_table, "__file__", str(tmp_path / "choice_table.py"))
    kernel, hashes = tmp_path / "kernel.py", set()
    for source in ("one", "two"):
        kernel.write_text(source)
        hashes.add(choice_table._sources.__wrapped__())
    assert len(hashes) == 2


def of_devices(devices: object) -> str:
    return json.dumps({"version": VERSION, "devices": devices})


def of_entry(microseconds: object, configuration: object = None) -> str:
    """A table of two ways, of which the other one is sound."""
    torch_way = {"configuration": None, "microseconds": 3.0}
    packed = {"configuration": configuration, "microseconds": microseconds}
    return of_devices({fingerprint(CPU): {LAYER.key: {"torch": torch_way, "packed": packed}}})


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[" * 100_000,
        "[]",
        json.dumps({"version": VERSION + 1, "devices": {}}),
        json.dumps({"version": VERSION}),
        *map(of_devices, ([], "cpu", {"cpu": []}, {"cpu": {LAYER.key: []}}, {"cpu": {LAYER.key: {"packed": []}}})),
        of_devices({"cpu": {LAYER.key: {"packed": {"configuration": None}}}}),
        *map(of_entry, ("3.5", None, True, [], float("nan"), float("inf"), -1.0, 0, -(10**400))),
        *(of_entry(2.0, configuration) for configuration in (5, ["7x7x7"])),
    ],
    ids=lambda content: content[:8] if len(content) < 10 or content[:2] == "[[" else content[-40:],
)
def test_files_that_are_no_tables_are_ignored_with_a_warning(own: Path, content: str) -> None:
    own.parent.mkdir()
    own.write_text(content, encoding="utf-8")
    with pytest.warns(UserWarning, match="choices.json"):
        tuner = Tuner(CPU, own)
    assert tuner.fastest(LAYER, ["torch", "packed"]) is None
    with pytest.warns(UserWarning, match="choices.json"):
        tuner.record(LAYER, "torch", None, 2.0)
    assert read_table(own)[fingerprint(CPU)][LAYER.key]["torch"]["microseconds"] == 2.0


def test_a_whole_number_is_a_time_however_large(own: Path) -> None:
    own.parent.mkdir()
    for microseconds in (4, 10**400):
        own.write_text(of_entry(microseconds), encoding="utf-8")
        assert Tuner(CPU, own).fastest(LAYER, ["torch", "packed"]) == "torch"


def test_a_clock_that_reads_nothing_leaves_a_table(own: Path) -> None:
    Tuner(CPU, own).record(LAYER, "torch", None, 0.0)
    assert 0 < read_table(own)[fingerprint(CPU)][LAYER.key]["torch"]["microseconds"] <= 0.01


def test_a_cache_that_cannot_be_written_is_only_warned_about(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    tuner = Tuner(CPU, tmp_path / "choices.json")
    tuner._own = file / "choices.json"
    with pytest.warns(UserWarning, match="can't be (read|written)"):
        tuner.record(LAYER, "torch", None, 2.0)
    assert list(tmp_path.iterdir()) == [file]


def strangers(table: Table) -> set[str]:
    """Configurations that a table names and that aren't listed."""
    names = {own.name for family in FAMILIES.values() for kind in family.values() for own in kind}
    entries = [way for problems in table.values() for ways in problems.values() for way in ways.values()]
    return {entry["configuration"] for entry in entries if entry["configuration"] is not None} - names


def test_the_shipped_table_names_configurations_that_exist() -> None:
    made_up = {"packed": {"configuration": "7x7x7", "microseconds": 1.0}}
    assert strangers({"cpu": {LAYER.key: made_up}}) == {"7x7x7"}
    assert strangers(read_table(SHIPPED)) == set()


def test_the_cache_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_file().parent == tmp_path / "slimkern"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_file().is_relative_to(Path.home())
