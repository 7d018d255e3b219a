"""All that is worth knowing of a GPU, the most telling first, within so many seconds. `make gpu` runs this.

    python benchmarks/on_gpu.py [--seconds 460] [--out DIR]    # the campaign; the same line again goes on with it
    python benchmarks/on_gpu.py --only step tests              # some of its steps; --again, though they ended before
    python benchmarks/on_gpu.py --rehearse                     # tiny shapes and stand-ins, on a CPU
    python benchmarks/on_gpu.py --carry                        # compile what travels to a machine with a GPU
    python benchmarks/on_gpu.py import DIR                     # keep its rows and its choices of kernels

Each step is a process of its own with a limit of its own; one that dies or hangs is recorded, and the next one begins.
What a step learns is in the folder the moment it is known: see `campaign/journal.py` for its files. `page.md` sums up.
A folder is for one state of the sources on one machine: by default build/campaigns/<schedule>-<commit>.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import signal
import subprocess
import sys
from math import isfinite
from pathlib import Path

from campaign.carry import carry, unpack
from campaign.journal import Ending, Journal
from campaign.page import write_page
from campaign.runner import CampaignError, run
from campaign.schedule import SCHEDULES
from lines import replace

ROOT = Path(__file__).resolve().parents[1]
CARRIED = ROOT / "build" / "carried"
CAMPAIGNS = ROOT / "build" / "campaigns"


def why_not() -> str | None:
    """Why nothing of this can run here; None where it can."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed"
    import torch

    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():
        return "torch finds no CUDA GPU"
    return None


def identity(rehearse: bool) -> dict[str, str]:
    """What a campaign is of: results of others don't belong into its folder."""
    import rows

    schedule, device = ("rehearsal", rows.device_name("cpu")) if rehearse else ("gpu", rows.gpus())
    return {"schedule": schedule, "commit": rows.commit() or "unknown", "device": device}


def claim(folder: Path, known: dict[str, str]) -> None:
    """Make a campaign's folder, or see that it is this campaign's.

    Raises:
        CampaignError: it is another's.
        OSError: it can't be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "campaign.json"
    if not path.is_file():
        replace(path, json.dumps(known) + "\n")
    elif (others := path.read_text(encoding="utf-8")) != json.dumps(known) + "\n":
        raise CampaignError(f"{folder} is another campaign's, of {others.strip()}; this one is of {json.dumps(known)}")


def campaign(options: argparse.Namespace) -> int:
    """Run it; 0 if every step has passed.

    Raises:
        CampaignError: it can't run.
        OSError: its folder can't be written.
    """
    known = identity(options.rehearse)
    default = CAMPAIGNS / f"{known['schedule']}-{known['commit']}"
    folder = (options.out or options.folder or default).resolve()
    steps = SCHEDULES[known["schedule"]](folder)
    names = [step.name for step in steps]
    if unknown := set(options.only or ()) - set(names):
        raise CampaignError(f"no such steps: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    claim(folder, known)
    chosen = [step for step in steps if not options.only or step.name in options.only]
    if options.again:
        journal = Journal(folder)
        for step in chosen:
            journal.add(Ending(step.name, "no time", None, 0.0))
    variables = {
        "PYTHONUNBUFFERED": "1",
        "SLIMKERN_ROWS": str(folder / "rows.jsonl"),
        "XDG_CACHE_HOME": str(folder),  # where the tuner keeps what it measures
        **unpack(options.carried),
    }
    endings = run(chosen, folder, options.seconds, variables, lambda now: write_page(folder, steps, now))
    print(write_page(folder, steps, endings).read_text(encoding="utf-8"))
    return int(any(endings[step.name].status != "passed" for step in chosen))


def imported(folder: Path) -> int:
    """Store what a campaign has measured; 0 if all of it is."""
    from campaign.importing import ReportError, import_folder

    try:
        print("Written:", *import_folder(folder), sep="\n  ")
    except (FileNotFoundError, ValueError, ReportError, ImportError) as error:
        print(error, *getattr(error, "__notes__", []), sep="\n", file=sys.stderr)
        return 2
    return 0


def parsed() -> argparse.Namespace:
    """The command line."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("action", nargs="?", choices=("run", "import"), default="run")
    options.add_argument("folder", nargs="?", type=Path, help="of the campaign")
    options.add_argument("--seconds", type=float, default=460.0, help="for all of it")
    options.add_argument("--out", type=Path, help="folder of the campaign")
    options.add_argument("--only", nargs="+", help="names of the steps to run")
    options.add_argument("--again", action="store_true", help="run them though they ended before")
    options.add_argument("--rehearse", action="store_true", help="on a CPU, with tiny shapes and stand-ins")
    options.add_argument("--carry", action="store_true", help="fill the folder --carried, and end")
    options.add_argument("--carried", type=Path, default=CARRIED, help="folder of what was compiled beforehand")
    arguments = options.parse_args()
    if arguments.action == "import" and arguments.folder is None:
        options.error("import takes the folder of a campaign")
    if not isfinite(arguments.seconds):
        options.error(f"--seconds {arguments.seconds} must be a number of seconds")
    return arguments


def main() -> int:
    arguments = parsed()
    if arguments.action == "import":
        return imported(arguments.folder)
    # So that the steps which run are ended, too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        if arguments.carry:
            carry(arguments.carried)
            return 0
        if not arguments.rehearse and (reason := why_not()):
            raise CampaignError(f"there is nothing to do without a GPU: {reason}")
        return campaign(arguments)
    except (CampaignError, OSError, subprocess.CalledProcessError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
