"""How far each block's weights move while a task is learned: what scrolling is meant to steer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from slimkern.nn import ScrollConv2d, ScrollLinear


class Movement:
    """Compares the weights of a network's scrolling layers with those at the start of a task.

    A block is a slice of the stored output channels, so it stays itself whatever the scroll is. Layers whose output is
    whole have none and are left out.
    """

    def __init__(self) -> None:
        self._start: dict[str, Tensor] = {}

    def begin(self, net: nn.Module) -> None:
        """Remember the weights of `net`; they take as much memory once more."""
        self._start = {name: weight.detach().clone() for name, weight in _weights(net)}

    def by_block(self, net: nn.Module) -> dict[str, list[float]]:
        """For each layer, by name, the relative movement |now - start| / |start| of each block, Frobenius norms.

        Empty for a network without such layers.
        """
        moved = {
            name: (_norms(weight - self._start[name]) / _norms(self._start[name]).clamp_min(1e-30))
            for name, weight in _weights(net)
        }
        blocks = torch.stack(list(moved.values())).tolist() if moved else []
        return dict(zip(moved, blocks, strict=True))

    def state_dict(self) -> dict[str, Any]:
        """The remembered weights."""
        return self._start

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up remembered weights."""
        self._start = dict(state)


def _weights(net: nn.Module) -> list[tuple[str, Tensor]]:
    """Name and weight [blocks, values] of each layer with sliced output channels."""
    return [
        (name, layer.weight.detach().reshape(layer.widths.blocks, -1))
        for name, layer in net.named_modules()
        if isinstance(layer, (ScrollConv2d, ScrollLinear)) and not layer.whole_out
    ]


def _norms(blocks: Tensor) -> Tensor:
    return torch.linalg.vector_norm(blocks, dim=1, dtype=torch.float64)
