"""How far each block's weights moved in each task, which shows scrolling at work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimkern.experiments.optional import load_extra
from slimkern.experiments.plots import STYLE, save_figure
from slimkern.experiments.runs import Group
from slimkern.experiments.tables import Spread, Table

Events = list[dict[str, Any]]


@dataclass(frozen=True)
class Moves:
    """Those of a group.

    Attributes:
        label: of the group.
        layers: their names, in the order of the network.
        by_layer: |now - start| / |start|, float64 [runs, tasks, layers, blocks], blocks as they are stored.
        scrolls: int64 [runs, tasks]: the block that was ranked first.
    """

    label: str
    layers: tuple[str, ...]
    by_layer: NDArray[np.float64]
    scrolls: NDArray[np.int64]

    @property
    def relative(self) -> NDArray[np.float64]:
        """The mean over layers, float64 [runs, tasks, blocks]."""
        return self.by_layer.mean(2)

    @classmethod
    def of(cls, group: Group, events: Sequence[Events]) -> Moves | None:
        """From the events of the group's runs; None unless each tells of as many tasks, and of several blocks."""
        told = [(by_task(own, "moved"), by_task(own, "scrolled")) for own in events]
        tasks = {len(moved) for moved, _ in told}
        if tasks == {0} or len(tasks) > 1 or any(set(moved) - set(scrolled) for moved, scrolled in told):
            return None
        layers = tuple(next(iter(told[0][0].values()))["blocks"])
        by_layer = np.array([
            [[moved[task]["blocks"][layer] for layer in layers] for task in sorted(moved)] for moved, _ in told
        ])  # fmt: skip
        scrolls = np.array([[scrolled[task]["scroll"] for task in sorted(moved)] for moved, scrolled in told])
        return cls(group.label, layers, by_layer, scrolls) if by_layer.shape[-1] > 1 else None


def by_task(events: Events, kind: str) -> dict[int, dict[str, Any]]:
    """The events of one kind by their task; of a task that was learned again the last one."""
    return {event["task"]: event for event in events if event["kind"] == kind}


def movement_table(moves: Sequence[Moves]) -> Table:
    """One row a group, task and block: its rank in each run, and how far it moved."""
    rows = [
        (
            own.label,
            len(own.relative),
            task + 1,
            block,
            _ranks(own, task, block),
            Spread.of(own.relative[:, task, block]),
        )
        for own in moves
        for moved in [own.relative]
        for task in range(moved.shape[1])
        for block in range(moved.shape[2])
    ]
    headers = ("run", "n", "task", "block", "rank", "relative movement")
    return Table("How far each block's weights moved in each task, mean over layers", headers, tuple(rows))


def draw_movement(moves: Sequence[Moves], path: Path) -> None:
    """Blocks down, tasks across, one panel a group: relative movement, mean over layers and runs.

    Colours tell which blocks a task moved more than others: the movement of a block over the mean of all in that task
    and run. The number in each cell is the relative movement itself, in percent. A frame marks the block that was
    ranked first, where all runs of a group ranked alike.

    Raises:
        ImportError: if matplotlib isn't installed.
        StorageError: if the file can't be written.
    """
    matplotlib = load_extra("matplotlib", extra="plot")
    means = [own.relative.mean(0).T for own in moves]
    shares = [(own.relative / own.relative.mean(2, keepdims=True).clip(1e-30)).mean(0).T for own in moves]
    reach = max(float(np.abs(share - 1).max()) for share in shares) or 1.0
    across = min(len(moves), 2)
    down = -(-len(moves) // across)
    size = (max(0.62 * max(mean.shape[1] for mean in means), 2.4), 0.5 * max(len(mean) for mean in means))
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        figure = load_extra("matplotlib.figure", extra="plot").Figure(
            figsize=((size[0] + 0.7) * across + 0.9, (size[1] + 1.1) * down), layout="constrained"
        )
        panels = figure.subplots(down, across, squeeze=False).flat
        for panel, own, mean, share in zip(panels, moves, means, shares, strict=False):
            image = panel.imshow(share, cmap="PuOr_r", vmin=1 - reach, vmax=1 + reach, aspect="auto")
            for (block, task), value in np.ndenumerate(mean):
                dark = abs(share[block, task] - 1) > 0.6 * reach
                text = f"{100 * value:.3g}"
                panel.text(task, block, text, ha="center", va="center", fontsize=7, color="w" if dark else "k")
            _frame_first(panel, own, load_extra("matplotlib.patches", extra="plot").Rectangle)
            runs = f"n\u00a0=\u00a0{len(own.relative)}"
            panel.set_title(fill(f"{own.label} ({runs})", round(11 * size[0])), fontsize=9)
            panel.set_xlabel("task")
            panel.set_ylabel("block")
            panel.set_xticks(range(mean.shape[1]), [str(task + 1) for task in range(mean.shape[1])])
            panel.set_yticks(range(len(mean)))
            panel.tick_params(length=0)
            panel.spines[:].set_visible(False)
        for panel in list(figure.axes)[len(moves) :]:
            panel.set_axis_off()
        bar = figure.colorbar(image, ax=figure.axes, shrink=0.8, aspect=25, pad=0.02)
        bar.set_label("movement, times the task's mean")
        bar.outline.set_visible(False)
        save_figure(figure, path)


def _frame_first(panel: Any, moves: Moves, rectangle: Any) -> None:
    for task, scrolls in enumerate(moves.scrolls.T):
        if len(set(scrolls.tolist())) == 1:
            panel.add_patch(rectangle((task - 0.47, scrolls[0] - 0.46), 0.94, 0.92, fill=False, linewidth=1.6))


def _ranks(moves: Moves, task: int, block: int) -> str:
    """1 for the block held by all widths; those of all runs, where they differ."""
    ranks = sorted({int(block - scroll) % moves.relative.shape[2] + 1 for scroll in moves.scrolls[:, task]})
    return "/".join(map(str, ranks))
