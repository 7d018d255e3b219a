from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from slimkern import __main__ as entry
from slimkern.continual.methods import METHODS
from slimkern.experiments import run as run_module
from slimkern.experiments.run_folder import RunFolder
from tests.continual.few_digits import few_digits

pytest.importorskip("tyro")
ROOT = Path(__file__).resolve().parents[1]
TINY = "--device cpu --tasks 2 --epochs 1 --channels 4 --batch-size 8"
Typed = Callable[[str], int]


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Typed:
    """Types a command line, with few images for the digits, and gives its exit status."""
    monkeypatch.setattr(run_module, "load", lambda name, root, download: few_digits())

    def run(line: str) -> int:
        monkeypatch.setattr(sys, "argv", ["slimkern", *line.split()])
        try:
            entry.main()
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
        return 0

    return run


def spoken(capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    captured = capsys.readouterr()
    return captured.out, captured.err


def in_a_process(code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)


WITHOUT_EXTRAS = """
import sys
for name in ("tyro", "rich", "torchvision", "sklearn", "matplotlib", "tensorboard"):
    sys.modules[name] = None
sys.argv = ["slimkern", {argument!r}]
from slimkern.__main__ import main
main()
"""


def test_info_works_without_the_extras() -> None:
    done = in_a_process(WITHOUT_EXTRAS.format(argument="info"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("slimkern ") and "\noperators\n" in done.stdout
    assert "\n  scroll_conv2d on cpu: torch\n" in done.stdout


def test_training_without_the_extras_says_how_to_get_them() -> None:
    done = in_a_process(WITHOUT_EXTRAS.format(argument="train"))
    assert done.returncode == 1 and not done.stdout
    assert done.stderr.startswith("slimkern: ") and "pip install 'slimkern[train,plot]'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_info_is_described_in_full(typed: Typed, capsys: pytest.CaptureFixture[str]) -> None:
    assert typed("info") == 0
    printed, complaint = spoken(capsys)
    assert "operators\n" in printed and "extras\n" in printed and not complaint


def test_bench_report_writes_what_the_stored_rows_say(
    typed: Typed, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    readme, pictures = tmp_path / "README.md", tmp_path / "docs"
    readme.write_text((ROOT / "README.md").read_text(encoding="utf-8"), encoding="utf-8")
    results = ROOT / "benchmarks" / "results"
    assert typed(f"bench report --results {results} --readme {readme} --pictures {pictures}") == 0
    written = spoken(capsys)[0].split()[1:]
    assert str(readme) in written and str(pictures / "training_step.png") in written
    assert all(Path(file).stat().st_size > 1000 for file in written)


def test_methods_are_listed_with_their_options(typed: Typed, capsys: pytest.CaptureFixture[str]) -> None:
    assert typed("methods") == 0
    lines = spoken(capsys)[0].splitlines()
    names, options = lines[::2], lines[1::2]
    assert [name.partition(":")[0] for name in names] == list(METHODS)
    listed = dict(zip(METHODS, (option.strip() for option in options), strict=True))
    assert listed["ft"] == "options: none"
    assert listed["lwf"] == "options: strength 1, temperature 2"
    assert listed["ewc"] == "options: strength 5000, alpha 0.5"
    assert listed["bic"] == "options: temperature 2, held_out 0.1, bias_epochs 200, bias_learning_rate 0.1"
    assert listed["lucir"] == "options: strength 5, margin_strength 1, margin 0.5, hard_negatives 2"


def test_help_names_every_choice(typed: Typed, capsys: pytest.CaptureFixture[str]) -> None:
    assert typed("train --help") == 0
    printed = spoken(capsys)[0]
    assert "Learn a sequence of tasks" in printed
    for flag in (
        "--out",
        "--root",
        "--download",
        "--device",
        "--tensorboard",
        "--method",
        "{ft,lwf,ewc,mas,icarl,bic,lucir,joint,freezing,autoactivator,",
        "--widths",
    ):
        assert flag in printed
    assert "--config." not in printed


@pytest.mark.parametrize(
    ("flag", "defaults"),
    [
        ("", {"--exemplars INT": "0", "--batch-size INT": "64", "--channels INT": "64", "--momentum FLOAT": "0.0"}),
        ("--method autoactivator", {"--exemplars INT": "0", "--batch-size INT": "64", "--widths": "1.0"}),
        ("--method=scl-pnc", {"--exemplars INT": "3312", "--batch-size INT": "128", "--channels INT": "16"}),
        ("--tasks 3 --method scl-pnc", {"--exemplars INT": "3312", "--momentum FLOAT": "0.9", "--widths": "1.0"}),
    ],
    ids=["none", "autoactivator", "scl-pnc", "scl-pnc among others"],
)
def test_help_shows_the_defaults_of_the_method(
    typed: Typed, capsys: pytest.CaptureFixture[str], flag: str, defaults: dict[str, str]
) -> None:
    assert typed(f"train {flag} --help") == 0
    words = " ".join(spoken(capsys)[0].replace("│", " ").split())
    for option, value in defaults.items():
        _, _, following = words.partition(f"{option} ")
        assert following.partition("(default: ")[2].partition(")")[0] == value, option


def test_a_given_flag_overrides_the_default_of_the_method(typed: Typed, tmp_path: Path) -> None:
    line = "--data digits --tasks 2 --first-task-classes 5 --class-order seed --augmentation shift --exemplars 20"
    out = tmp_path / "run"
    assert typed(f"train --method scl-pnc {line} --channels 2 --epochs 1 --device cpu --out {out}") == 0
    config = RunFolder.read(out).config
    assert (config["exemplars"], config["channels"], config["batch_size"], config["widths"]) == (20, 2, 128, [1.0])
    assert (config["decay_at"], config["first_task_decay_at"]) == ([0.4, 0.6, 0.75], [0.8, 0.9])


@pytest.mark.parametrize(
    ("line", "allowed"),
    [
        ("train --method si", ["ft", "lwf", "ewc", "mas"]),
        ("train --data imagenet", ["digits", "mnist", "fashion-mnist", "cifar10", "cifar100", "tiny-imagenet"]),
        ("learn", ["train", "demo", "report", "analyse", "methods", "info"]),
    ],
)
def test_a_word_that_is_none_of_the_allowed_is_answered_with_those(
    typed: Typed, capsys: pytest.CaptureFixture[str], line: str, allowed: list[str]
) -> None:
    assert typed(line) != 0
    printed, complaint = spoken(capsys)
    assert all(word in complaint for word in allowed)
    assert not printed and "Traceback" not in complaint


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--tasks 3", "10 classes do not split evenly into 3 tasks"),
        ("--options alpha 0.5", "options alpha: method ft has no such options; it has: none"),
    ],
)
def test_an_error_is_one_line_and_leaves_no_folder(
    typed: Typed, capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: str, message: str
) -> None:
    assert typed(f"train {TINY} {arguments} --out {tmp_path / 'run'}") == 1
    printed, complaint = spoken(capsys)
    assert complaint.startswith(f"slimkern: {message}") and complaint.count("\n") == 1
    assert not printed and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--epochs 0", "epochs=0 must lie in 1 to 1000000000"),
        ("--widths 0.5", "widths: widths=(0.5,): must ascend and end in 1.0"),
    ],
)
def test_a_value_outside_what_is_allowed_is_explained(
    typed: Typed, capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: str, message: str
) -> None:
    assert typed(f"train {TINY} {arguments} --out {tmp_path / 'run'}") != 0
    printed, complaint = spoken(capsys)
    unwrapped = " ".join(re.sub(r"[│╭╮╰╯─]", " ", complaint).split())
    assert message in unwrapped and "Traceback" not in complaint
    assert not printed and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"train {TINY} --channels 6 --out OUT", "channels=6 can't be cut into the 4 blocks"),
        ("train --device abacus --out OUT", "device=abacus is not here; allowed: auto, cpu"),
        ("report", "no run folders were given"),
        ("train --epochs 0 --out OUT", "epochs=0 must lie in"),
    ],
    ids=["channels", "device", "no folders", "epochs"],
)
def test_a_mistake_gets_the_programs_own_answer(
    typed: Typed, capsys: pytest.CaptureFixture[str], tmp_path: Path, line: str, message: str
) -> None:
    assert typed(line.replace("OUT", str(tmp_path / "run"))) == 1
    complaint = spoken(capsys)[1]
    assert complaint.startswith("slimkern: ") and message in complaint
    assert not list(tmp_path.iterdir())


def test_a_real_process_complains_without_a_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "slimkern", "report", str(tmp_path / "nothing")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and not done.stdout
    assert done.stderr == f"slimkern: {tmp_path / 'nothing'} is not a run folder: it has no config.json\n"


def test_an_interruption_says_how_to_go_on(
    typed: Typed, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupt(self: object, state: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save_checkpoint", interrupt)
        assert typed(f"train {TINY} --out {tmp_path}") == 130
    assert "the same command goes on from the last finished epoch" in spoken(capsys)[1]
    assert typed(f"train {TINY} --out {tmp_path}") == 0


def test_training_off_a_terminal_prints_one_plain_line_an_epoch(
    typed: Typed, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert typed(f"train {TINY} --widths 2 --method ewc --options strength 10 --out {tmp_path}") == 0
    printed, complaint = spoken(capsys)
    assert not complaint and "\x1b" not in printed and "\r" not in printed
    first, *lines = printed.splitlines()
    assert first.startswith("2 tasks, 10 classes, 1 epochs a task, widths 0.5, 1, ")
    epochs = [line for line in lines if re.match(r"task [12]/2  epoch 1/1  loss \d+\.\d{4}  validation .* left$", line)]
    assert len(epochs) == 2
    assert sum("learned: average accuracy" in line for line in lines) == 2
    assert "\n| EWC · ScrollNet-2 | 2 " in printed and "| width 0.5 |" in printed
    assert printed.endswith(f"The run is in {tmp_path}; `slimkern report {tmp_path}` draws it.\n")
    assert RunFolder.read(tmp_path).config["options"] == {"strength": 10.0, "alpha": 0.5}


def test_without_out_a_run_goes_to_a_folder_of_its_name(
    typed: Typed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert typed(f"train {TINY} --widths 1") == 0
    assert [entry.name for entry in (tmp_path / "runs").iterdir()] == ["digits-2-ft-widths-1-epochs-1-seed-0"]


def test_tensorboard_writes_into_a_fresh_folder(typed: Typed, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert typed(f"train {TINY} --tensorboard --out {tmp_path / 'run'}") == 0
    log = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    log.Reload()
    assert len(log.Scalars("loss")) == 2
    assert typed(f"train {TINY} --tensorboard --out {tmp_path / 'run'}") == 0


def test_a_report_is_drawn_and_written(typed: Typed, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for method in ("ft", "ewc"):
        assert typed(f"train {TINY} --widths 2 --method {method} --out {tmp_path / method}") == 0
    spoken(capsys)
    out = tmp_path / "report"
    assert typed(f"report {tmp_path / 'ft'} {tmp_path / 'ewc'} --out {out}") == 0
    printed = spoken(capsys)[0]
    assert {entry.name for entry in out.iterdir()} == {
        "curves.png", "matrix.png", "report.md", "runs.csv", "widths.csv"
    }  # fmt: skip
    for picture in ("curves.png", "matrix.png"):
        data = (out / picture).read_bytes()
        width, height = (int.from_bytes(data[at : at + 4]) for at in (16, 20))
        assert data.startswith(b"\x89PNG\r\n\x1a\n") and width > 300 and height > 200
        assert str(out / picture) in printed
    text, table = (out / "report.md").read_text(), (out / "runs.csv").read_text()
    assert text in printed and "EWC · ScrollNet-2" in text
    assert [line.partition(",")[0] for line in table.splitlines()] == ["run", "FT · ScrollNet-2", "EWC · ScrollNet-2"]
