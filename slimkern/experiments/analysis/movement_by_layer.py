"""How far each block of each layer moved in each task: where in the network scrolling is at work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

import numpy as np

from slimkern.experiments.analysis.movement import Moves
from slimkern.experiments.optional import load_extra
from slimkern.experiments.plots import STYLE, save_figure
from slimkern.experiments.tables import Spread, Table


def layer_table(moves: Sequence[Moves]) -> Table:
    """One row a group, task, layer and block."""
    rows = tuple(
        (
            own.label,
            len(own.by_layer),
            task + 1,
            own.layers[layer],
            block,
            Spread.of(own.by_layer[:, task, layer, block]),
        )
        for own in moves
        for task, layer, block in np.ndindex(own.by_layer.shape[1:])
    )
    headers = ("run", "n", "task", "layer", "block", "relative movement")
    return Table("How far each block of each layer moved in each task", headers, rows)


def draw_layers(moves: Sequence[Moves], path: Path) -> None:
    """Layers down, tasks across with their blocks side by side, one panel a group; mean over runs.

    Colours tell which blocks of a layer a task moved more than the others: the movement of a block over the mean of
    that layer, task and run.

    Raises:
        ImportError: if matplotlib isn't installed.
        StorageError: if the file can't be written.
    """
    matplotlib = load_extra("matplotlib", extra="plot")
    shares = [(own.by_layer / own.by_layer.mean(3, keepdims=True).clip(1e-30)).mean(0) for own in moves]
    reach = max(float(np.abs(share - 1).max()) for share in shares) or 1.0
    columns = max(share.shape[0] * share.shape[2] for share in shares)
    size = max(0.16 * columns, 3.0), 0.2 * max(share.shape[1] for share in shares)
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        figure = load_extra("matplotlib.figure", extra="plot").Figure(
            figsize=(size[0] + 2.6, (size[1] + 0.9) * len(moves)), layout="constrained"
        )
        panels = figure.subplots(len(moves), 1, squeeze=False).flat
        for panel, own, share in zip(panels, moves, shares, strict=True):
            tasks, layers, blocks = share.shape
            image = panel.imshow(
                share.transpose(1, 0, 2).reshape(layers, tasks * blocks),
                cmap="PuOr_r", vmin=1 - reach, vmax=1 + reach, aspect="auto", interpolation="nearest",
            )  # fmt: skip
            for task in range(1, tasks):
                panel.axvline(task * blocks - 0.5, color="white", linewidth=2)
            panel.set_title(fill(f"{own.label} (n\u00a0=\u00a0{len(own.by_layer)})", round(14 * size[0])), fontsize=9)
            panel.set_xlabel(f"task, its {blocks} blocks side by side")
            panel.set_xticks([(task + 0.5) * blocks - 0.5 for task in range(tasks)], range(1, tasks + 1))
            panel.set_yticks(range(layers), own.layers, fontsize=7)
            panel.tick_params(length=0)
            panel.spines[:].set_visible(False)
        bar = figure.colorbar(image, ax=figure.axes, shrink=0.8, aspect=25, pad=0.02)
        bar.set_label("movement, times the layer's mean")
        bar.outline.set_visible(False)
        save_figure(figure, path)
