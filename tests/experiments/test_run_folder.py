from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
import torch

from slimkern.continual.metrics import Counts
from slimkern.experiments.config_file import FolderInUseError
from slimkern.experiments.run_folder import RunFolder, RunFolderError

CONFIG = {"method": "ewc", "widths": (0.5, 1.0), "options": {"strength": 5000.0}, "epochs": 2, "seed": 0}

HOLDER = """
import sys
from slimkern.experiments.run_folder import RunFolder
folder = RunFolder.open(sys.argv[1], {"seed": 0})
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.open(tmp_path / "run", CONFIG)


def test_reopens_with_the_same_configuration(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path / "new" / "run", CONFIG) as first:
        first.append_event("started")
    with RunFolder.open(tmp_path / "new" / "run", CONFIG) as again:
        assert again.config == json.loads(json.dumps(CONFIG))
        assert [event["kind"] for event in again.events()] == ["started"]


def test_another_configuration_is_refused_by_its_differing_keys(folder: RunFolder) -> None:
    folder.close()
    before = {entry.name: entry.read_bytes() for entry in folder.path.iterdir()}
    with pytest.raises(RunFolderError) as refusal:
        RunFolder.open(folder.path, {**CONFIG, "epochs": 3, "clip": 1.0})
    first, *rest = str(refusal.value).splitlines()
    assert "another configuration" in first
    assert rest == ["  clip: given 1.0, found nothing", "  epochs: given 3, found 2"]
    assert {entry.name: entry.read_bytes() for entry in folder.path.iterdir()} == before
    RunFolder.open(folder.path, {**dict(reversed(CONFIG.items())), "epochs": 2.0}).close()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(RunFolderError, match=r"not empty \(it holds 'thesis\.tex'\)"):
        RunFolder.open(tmp_path, CONFIG)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_killed_before_its_configuration_was_stored_starts_again(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    (tmp_path / "config.json.partial").write_text('{"for')
    with RunFolder.open(tmp_path, CONFIG) as folder:
        assert RunFolder.read(tmp_path).config == folder.config


def test_a_path_that_can_not_be_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunFolderError, match=r"can't be used as a run folder: (File exists|Not a directory)"):
            RunFolder.open(path, CONFIG)


@pytest.mark.parametrize("bad", [{"seed": float("nan")}, {"path": Path("here")}], ids=["nan", "path"])
def test_a_configuration_beyond_json_leaves_no_folder(tmp_path: Path, bad: dict) -> None:
    with pytest.raises((TypeError, ValueError), match="JSON"):
        RunFolder.open(tmp_path / "run", bad)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": 99, "config": {}}', "format version 99; this slimkern reads version 1"),
        ('{"form', "isn't the configuration of a run"),
        ('{"seed": 0}', "isn't the configuration of a run"),
        ('{"format": 1, "config": [1]}', "isn't the configuration of a run"),
    ],
    ids=["other-format", "cut-short", "foreign", "a-list"],
)
def test_unreadable_configuration_is_refused(folder: RunFolder, text: str, message: str) -> None:
    folder.close()
    (folder.path / "config.json").write_text(text)
    for use in (lambda: RunFolder.open(folder.path, CONFIG), lambda: RunFolder.read(folder.path)):
        with pytest.raises(RunFolderError, match=message):
            use()


def test_reading_needs_a_run_folder(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"not a run folder: it has no config\.json"):
        RunFolder.read(tmp_path)


def test_a_folder_open_for_reading_or_closed_writes_nothing(folder: RunFolder) -> None:
    reader = RunFolder.read(folder.path)
    folder.close()
    for silent in (reader, folder):
        with pytest.raises(RunFolderError, match=r"open for reading"):
            silent.append_event("started")
        with pytest.raises(RunFolderError, match=r"open for reading"):
            silent.save_checkpoint({})
    assert not (folder.path / "events.jsonl").exists()


def test_events_keep_their_order_fields_and_utc_time(folder: RunFolder) -> None:
    for epoch in range(3):
        folder.append_event("epoch_finished", epoch=epoch, loss=0.5)
    events = RunFolder.read(folder.path).events()
    assert [event["kind"] for event in events] == ["epoch_finished"] * 3
    assert [(event["epoch"], event["loss"]) for event in events] == [(0, 0.5), (1, 0.5), (2, 0.5)]
    offset = datetime.fromisoformat(events[0]["time"]).utcoffset()
    assert offset is not None and not offset


def test_an_event_cut_short_at_any_byte_costs_only_itself(folder: RunFolder) -> None:
    folder.append_event("first")
    folder.append_event("second")
    folder.close()
    path = folder.path / "events.jsonl"
    whole = path.read_bytes()
    start = whole.index(b"\n") + 1
    for cut in range(start, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert [event["kind"] for event in RunFolder.read(folder.path).events()] == ["first"]
        with RunFolder.open(folder.path, CONFIG) as again:
            again.append_event("third")
            assert [event["kind"] for event in again.events()] == ["first", "third"]


def test_an_event_of_broken_bytes_costs_only_itself(folder: RunFolder) -> None:
    folder.append_event("started")
    with (folder.path / "events.jsonl").open("ab") as file:
        file.write(b"\xff\xfe{\n")
    folder.append_event("finished")
    assert [event["kind"] for event in folder.events()] == ["started", "finished"]


def test_counts_round_trip(folder: RunFolder) -> None:
    assert folder.counts() is None
    counts = Counts.empty((0.5, 1.0), (10, 20)).with_row([[7, 8]], [[5, 6]])
    folder.save_counts(counts)
    assert RunFolder.read(folder.path).counts() == counts


def test_damaged_counts_are_named(folder: RunFolder) -> None:
    (folder.path / "counts.json").write_text('{"widths": [1.0]}')
    with pytest.raises(RunFolderError, match=r"counts\.json is damaged: counts need the keys"):
        folder.counts()


def test_checkpoint_round_trip(folder: RunFolder) -> None:
    assert folder.load_checkpoint() is None
    state = {"weight": torch.arange(6.0).reshape(2, 3), "task": 1, "random": torch.get_rng_state()}
    folder.save_checkpoint({"task": 0})
    folder.save_checkpoint(state)
    found = folder.load_checkpoint("cpu")
    assert found is not None and found["task"] == 1
    assert torch.equal(found["weight"], state["weight"]) and torch.equal(found["random"], state["random"])


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_a_truncated_checkpoint_names_the_way_out(folder: RunFolder, share: float) -> None:
    folder.save_checkpoint({"weight": torch.zeros(1000)})
    path = folder.path / "last.pt"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(RunFolderError, match=r"last\.pt can't be read .* delete last\.pt to start the run again"):
        folder.load_checkpoint()


def test_a_checkpoint_can_not_run_code(folder: RunFolder) -> None:
    torch.save({"call": print}, folder.path / "last.pt")
    with pytest.raises(RunFolderError, match="UnpicklingError"):
        folder.load_checkpoint()


def test_a_checkpoint_must_be_a_dict(folder: RunFolder) -> None:
    torch.save([1], folder.path / "last.pt")
    with pytest.raises(RunFolderError, match="holds a list, no checkpoint"):
        folder.load_checkpoint()


def test_only_one_process_trains_in_a_folder_and_its_death_frees_it(tmp_path: Path) -> None:
    path = tmp_path / "run"
    command, root = [sys.executable, "-c", HOLDER, str(path)], Path(__file__).parents[2]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(
            FolderInUseError, match=rf"another process trains in it \(process {other.pid} on .+\); wait"
        ):
            RunFolder.open(path, {"seed": 0})
        assert RunFolder.read(path).config == {"seed": 0}
        other.kill()
        other.wait()
    RunFolder.open(path, {"seed": 0}).close()
