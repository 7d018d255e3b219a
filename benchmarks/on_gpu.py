"""All that is worth knowing of a GPU, the most telling first, within so many seconds. `make gpu` runs this.

    python benchmarks/on_gpu.py [--seconds 460] [--out DIR]    # the campaign; the same line again goes on with it
    python benchmarks/on_gpu.py --only step tests              # some of its steps; --again, though they ended before
    python benchmarks/on_gpu.py --rehearse                     # tiny shapes and stand-ins, on a CPU
    python benchmarks/on_gpu.py --carry                        # compile what travels to a machine with a GPU
    python benchmarks/on_gpu.py import DIR                     # keep its rows and its choices of kernels

Each step is a process of its own with a limit of its own; one that dies or hangs is recorded, and the next one begins.
What a step learns is in the folder the moment it is known: see `campaign/runner.py` for its files. `page.md` sums up.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

from campaign.carry import carry, unpack
from campaign.page import write_page
from campaign.runner import Ending, Journal, run
from campaign.schedule import SCHEDULES

ROOT = Path(__file__).resolve().parents[1]
CARRIED = ROOT / "build" / "carried"
OUT = ROOT / "build" / "campaign"


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


def campaign(options: argparse.Namespace) -> int:
    """Run it; 0 if every step has passed."""
    folder = options.out.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    steps = SCHEDULES["rehearsal" if options.rehearse else "gpu"](folder)
    if unknown := set(options.only or ()) - {step.name for step in steps}:
        print(
            f"no such steps: {', '.join(sorted(unknown))}; there are {', '.join(s.name for s in steps)}",
            file=sys.stderr,
        )
        return 2
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


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("action", nargs="?", choices=("run", "import"), default="run")
    options.add_argument("folder", nargs="?", type=Path, help="of a campaign, for import")
    options.add_argument("--seconds", type=float, default=460.0, help="for all of it")
    options.add_argument("--out", type=Path, default=OUT, help="folder of the campaign")
    options.add_argument("--only", nargs="+", help="names of the steps to run")
    options.add_argument("--again", action="store_true", help="run them though they ended before")
    options.add_argument("--rehearse", action="store_true", help="on a CPU, with tiny shapes and stand-ins")
    options.add_argument("--carry", action="store_true", help="fill the folder --carried, and end")
    options.add_argument("--carried", type=Path, default=CARRIED, help="folder of what was compiled beforehand")
    arguments = options.parse_args()
    if arguments.action == "import":
        if arguments.folder is None:
            options.error("import takes the folder of a campaign")
        return imported(arguments.folder)
    if arguments.carry:
        carry(arguments.carried)
        return 0
    if not arguments.rehearse and (reason := why_not()):
        print(f"there is nothing to do without a GPU: {reason}", file=sys.stderr)
        return 2
    return campaign(arguments)


if __name__ == "__main__":
    sys.exit(main())
