"""`python -m slimkern`, and what the `slimkern` command starts. `info` works without the extras."""

from __future__ import annotations

import sys

from slimkern.info import describe


def main() -> None:
    """Run the command line. What a user can mend ends with a message on standard error and exit status 1."""
    if sys.argv[1:] == ["info"]:
        print(describe())
        return
    try:
        from slimkern.cli import app, run_or_explain
    except ImportError as error:
        sys.exit(f"slimkern: {error}. Training needs an extra: pip install 'slimkern[train,plot]'")
    sys.exit(run_or_explain(app))


if __name__ == "__main__":
    main()
