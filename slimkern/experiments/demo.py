"""A small class-incremental sequence, trained for real in a minute or two."""

from __future__ import annotations

from pathlib import Path

from slimkern.continual.config import TrainConfig
from slimkern.experiments.progress import ProgressRecorder
from slimkern.experiments.report import report
from slimkern.experiments.run import run

RUNS = {
    f"{method}-widths-{widths}": TrainConfig(
        data="digits", tasks=5, method=method, widths=(widths,), channels=16, epochs=20, learning_rate=0.05
    )
    for method in ("ft", "ewc")
    for widths in (1, 4)
}
"""Fine-tuning and EWC, each as the plain baseline and as ScrollNet-4, on five tasks of two handwritten digits."""


def demo(out: Path) -> list[Path]:
    """Train the four runs of the demonstration in folders inside `out`, and report them there.

    Runs that are finished already are only reported; one that was killed goes on.

    Returns:
        The files of the report, pictures among them.

    Raises:
        As `slimkern.experiments.run.run` and `slimkern.experiments.report.report`.
    """
    for name, config in RUNS.items():
        print(f"\n{name}")
        with ProgressRecorder() as progress:
            run(config, out / name, recorders=[progress])
    print()
    return report([out / name for name in RUNS], out)
