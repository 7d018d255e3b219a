"""Steps of a campaign, however they end, and whatever ends the campaign."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

journal = pytest.importorskip("campaign.journal")
lines = pytest.importorskip("lines")
runner = pytest.importorskip("campaign.runner")
FOREVER = 600.0


def step(name: str, code: str, seconds: float = FOREVER, **options: object) -> object:
    return journal.Step(name, f"does {name}", [sys.executable, "-c", code], seconds, **options)


def run(steps: list, folder: Path, seconds: float = FOREVER) -> dict:
    return runner.run(steps, folder, seconds, {"WORD": "spoken"}, lambda endings: None, tell=lambda line: None)


def statuses(endings: dict) -> dict[str, str]:
    return {name: ending.status for name, ending in endings.items()}


def test_a_step_that_fails_dies_or_hangs_is_recorded_and_the_next_one_runs(tmp_path: Path) -> None:
    steps = [
        step("fails", "raise SystemExit('broken')"),
        step("dies", "import os; os.abort()"),
        step("hangs", "import time; print('waits', flush=True); time.sleep(600)", 2.0),
        step("passes", "import os; print(os.environ['WORD'])"),
    ]
    endings = run(steps, tmp_path)
    assert statuses(endings) == {"fails": "failed", "dies": "crashed", "hangs": "hung", "passes": "passed"}
    assert endings["dies"].exit == -signal.SIGABRT and endings["hangs"].exit is None
    log = (tmp_path / "log.txt").read_text()
    assert all(word in log for word in ("broken", "waits", "spoken", "===== hangs: hung"))
    assert not list(tmp_path.glob("now-*"))


def test_what_a_step_started_ends_with_it(tmp_path: Path) -> None:
    beat = tmp_path / "beat"
    child = f"import time\nwhile True: open({str(beat)!r}, 'a').write('.'); time.sleep(0.01)"
    code = (
        f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}])\n"
        f"import os\nwhile not os.path.exists({str(beat)!r}): time.sleep(0.01)"
    )
    run([step("leaves", code)], tmp_path)
    before = beat.stat().st_size
    time.sleep(0.3)
    assert beat.stat().st_size == before


def test_a_second_call_runs_what_is_missing_alone(tmp_path: Path) -> None:
    count = f"open({str(tmp_path / 'counted')!r}, 'a').write('x')"
    first, second = step("first", count), step("second", count)
    run([first], tmp_path)
    assert statuses(run([first, second], tmp_path)) == {"first": "passed", "second": "passed"}
    assert (tmp_path / "counted").read_text() == "xx"


def test_what_there_was_no_time_for_is_told_and_run_by_the_next_call(tmp_path: Path) -> None:
    steps = [step("now", "pass"), step("later", "pass")]
    assert statuses(run(steps, tmp_path, seconds=-1.0)) == {"now": "no time", "later": "no time"}
    assert statuses(run(steps, tmp_path)) == {"now": "passed", "later": "passed"}


def test_a_step_that_the_end_of_the_campaign_cuts_off_runs_again(tmp_path: Path) -> None:
    assert statuses(run([step("long", "import time; time.sleep(600)", 600)], tmp_path, 11.0)) == {"long": "no time"}
    assert statuses(run([step("long", "pass")], tmp_path)) == {"long": "passed"}


def test_a_program_that_is_missing_fails_its_step_alone(tmp_path: Path) -> None:
    steps = [journal.Step("missing", "", ["/no/such/program"], 60), step("next", "pass")]
    assert statuses(run(steps, tmp_path)) == {"missing": "failed", "next": "passed"}
    assert "/no/such/program can't be run: [Errno 2]" in (tmp_path / "log.txt").read_text()


def test_two_campaigns_in_one_folder_are_refused(tmp_path: Path) -> None:
    def second(endings: dict) -> None:
        with pytest.raises(runner.CampaignError, match="another campaign runs in"):
            run([step("other", "pass")], tmp_path)
        refused.append(True)

    refused: list[bool] = []
    runner.run([step("one", "pass")], tmp_path, 60, {}, second, tell=lambda line: None)
    assert refused


def test_a_step_that_is_run_again_replaces_what_it_told(tmp_path: Path) -> None:
    def tells(number: int) -> str:
        line = f"{{'step': os.environ['SLIMKERN_STEP'], 'try': {number}}}"
        return f"import json, os; open({str(rows)!r}, 'a').write(json.dumps({line}) + chr(10))"

    rows = tmp_path / "rows.jsonl"
    steps = [step(name, tells(1)) for name in ("kept", "again")]
    run(steps, tmp_path)
    journal.Journal(tmp_path).add(journal.Ending("again", "no time", None, 0.0))
    run([step("again", tells(2))], tmp_path)
    assert lines.read_lines(rows) == [{"step": "kept", "try": 1}, {"step": "again", "try": 2}]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_campaign_ends_its_steps(tmp_path: Path, number: int) -> None:
    beat = tmp_path / "beat"
    beats = f"import time\nwhile True: open({str(beat)!r}, 'a').write('.'); time.sleep(0.01)"
    code = f"""
import signal, sys
sys.path.insert(0, {str(Path(runner.__file__).parents[1])!r})
from pathlib import Path
from campaign.journal import Step
from campaign.runner import run
signal.signal(signal.SIGTERM, lambda *arguments: sys.exit(143))
steps = [Step("beside", "", [sys.executable, "-c", "import time; time.sleep(600)"], 600, beside=True),
         Step("beats", "", [sys.executable, "-c", {beats!r}], 600)]
run(steps, Path({str(tmp_path)!r}), 600, {{}}, lambda endings: None)
"""
    campaign = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not beat.exists():
        assert campaign.poll() is None
        time.sleep(0.01)
    campaign.send_signal(number)
    assert campaign.wait(60) != 0
    before = beat.stat().st_size
    time.sleep(0.3)
    assert beat.stat().st_size == before
    assert "beats" not in journal.Journal(tmp_path).endings()


def test_a_step_beside_the_others_is_waited_for_at_the_end(tmp_path: Path) -> None:
    flag = str(tmp_path / "flag")
    waits = f"import os, time\nwhile not os.path.exists({flag!r}): time.sleep(0.01)"
    steps = [step("beside", waits, beside=True), step("frees", f"open({flag!r}, 'w')")]
    assert statuses(run(steps, tmp_path)) == {"frees": "passed", "beside": "passed"}


def test_a_campaign_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    started, tries = tmp_path / "started", tmp_path / "tries"
    blocks = f"import time; open({str(tries)!r}, 'a').write('x'); open({str(started)!r}, 'w')"
    code = f"""
import sys, time
sys.path.insert(0, {str(Path(runner.__file__).parents[1])!r})
from campaign.journal import Step
from campaign.runner import run
steps = [Step("done", "", [sys.executable, "-c", "open({str(tries)!r}, 'a').write('d')"], 600),
         Step("cut", "", [sys.executable, "-c", {blocks + "; time.sleep(600)"!r}], 600)]
from pathlib import Path
run(steps, Path({str(tmp_path)!r}), 600, {{}}, lambda endings: None)
"""
    campaign = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    while not started.exists():
        assert campaign.poll() is None
        time.sleep(0.01)
    campaign.kill()
    campaign.wait()
    subprocess.run(["pkill", "-9", "-f", str(tries)], check=False)  # the step that it left behind
    endings = run([step("done", "raise SystemExit(1)"), step("cut", "pass"), step("next", "pass")], tmp_path)
    assert statuses(endings) == {"done": "passed", "cut": "passed", "next": "passed"}
    assert tries.read_text() == "dx"


def test_damaged_lines_of_the_journal_are_no_endings_and_cost_none(tmp_path: Path) -> None:
    run([step("whole", "pass")], tmp_path)
    with (tmp_path / "journal.jsonl").open("ab") as file:
        file.write(b'3\n{"step": []}\n\xff\n{"step": "cut", "sta')
    assert statuses(run([step("next", "pass")], tmp_path)) == {"whole": "passed", "next": "passed"}
