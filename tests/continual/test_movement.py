from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from slimkern import ScrollConv2d, ScrollLinear
from slimkern.continual.movement import Movement
from slimkern.continual.training import train
from tests.continual.few_digits import TINY, Listener, few_digits, restored


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(ScrollConv2d(3, 8, 3, whole_in=True), nn.Flatten(), ScrollLinear(8, 5, whole_out=True))


def test_movement_is_relative_and_by_stored_block() -> None:
    own, movement = net(), Movement()
    own[0].scroll = 1  # type: ignore[assignment]
    movement.begin(own)
    with torch.no_grad():
        own[0].weight[2:4] *= 1.5  # type: ignore[index]
        own[0].weight[6:8] = 0  # type: ignore[index]
    assert movement.by_block(own) == {"0": pytest.approx([0, 0.5, 0, 1], rel=1e-6)}


def test_a_movement_is_saved_and_goes_on() -> None:
    own, movement, file = net(), Movement(), io.BytesIO()
    movement.begin(own)
    torch.save(movement.state_dict(), file)
    file.seek(0)
    resumed = Movement()
    resumed.load_state_dict(torch.load(file, weights_only=True))
    with torch.no_grad():
        own[0].weight += 1  # type: ignore[operator]
    assert resumed.by_block(own) == movement.by_block(own)
    assert min(movement.by_block(own)["0"]) > 0


class Moves(Listener):
    def __init__(self) -> None:
        super().__init__()
        self.moves: list[dict[str, Any]] = []

    def noted(self, kind: str, facts: dict[str, Any]) -> None:
        if kind == "moved":
            self.moves.append(facts)


def test_a_run_tells_how_its_blocks_moved_whether_broken_or_not() -> None:
    config = replace(TINY, widths=(2.0,))
    unbroken, resumed = Moves(), Moves()
    train(config, few_digits(), unbroken)
    assert [facts["task"] for facts in unbroken.moves] == [0, 1]
    layers = unbroken.moves[0]["blocks"]
    assert len(layers) == 20 and all(len(blocks) == 2 and min(blocks) > 0 for blocks in layers.values())
    train(config, few_digits(), resumed, state=restored(unbroken.checkpoints[3]))
    assert resumed.moves == unbroken.moves[1:]
    assert "movement" in restored(unbroken.checkpoints[3]) and restored(unbroken.checkpoints[-1])["movement"] is None


def test_a_network_that_does_not_learn_does_not_move() -> None:
    still = Moves()
    train(replace(TINY, learning_rate=0.0, epochs=1), few_digits(), still)
    assert all(value == 0 for facts in still.moves for blocks in facts["blocks"].values() for value in blocks)
