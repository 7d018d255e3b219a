"""What a process of a `LocalPool` runs: one job, read from standard input.

Standard output is the log: the progress of the run, and in the end, if it failed, a line that says why.
"""

from __future__ import annotations

import os
import pickle
import sys
import threading
import traceback

from slimkern.experiments.errors import MENDABLE, in_one_line
from slimkern.experiments.progress import ProgressRecorder
from slimkern.experiments.sweeps.job import attempt


def main() -> int:
    """Trains the job; the exit status."""
    job = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_die_with_the_parent, daemon=True).start()
    try:
        with ProgressRecorder() as progress:
            attempt(job, [progress])
    except Exception as error:
        if not isinstance(error, MENDABLE):
            traceback.print_exc(file=sys.stdout)
        print(in_one_line(error))
        return 1
    return 0


def _die_with_the_parent() -> None:
    # Unbuffered: the interpreter can't end while a thread waits in a buffer. A run folder is sound at any moment.
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
