from __future__ import annotations

import pytest
import torch

from slimkern.continual.loss_ring import LossRing

CPU = torch.device("cpu")


def test_rows_are_read_as_they_were_written() -> None:
    ring = LossRing(3, CPU)
    for step in range(3):
        ring.write({"cross-entropy": torch.tensor(float(step)), "penalty": torch.tensor(10.0 * step)})
    names, losses, present = ring.read()
    assert names == ["cross-entropy", "penalty"]
    assert losses.tolist() == [[0, 0], [1, 10], [2, 20]] and bool(present.all())


def test_steps_may_lack_parts() -> None:
    ring = LossRing(2, CPU)
    ring.write({"a": torch.tensor(1.0), "b": torch.tensor(2.0)})
    ring.write({"c": torch.tensor(3.0, dtype=torch.bfloat16), "a": torch.tensor(torch.nan)})
    names, losses, present = ring.read()
    assert names == ["a", "b", "c"]
    assert present.tolist() == [[True, True, False], [True, False, True]]
    assert losses[0].tolist() == [1, 2, 0] and losses[1, 0].isnan() and losses[1, 1:].tolist() == [0, 3]


def test_after_the_last_row_comes_the_first_and_rewinding_forgets_all() -> None:
    ring = LossRing(2, CPU)
    for value in (1.0, 2.0, 3.0):
        ring.write({"a": torch.tensor(value)})
    assert ring.read()[1].tolist() == [[3], [2]]
    ring.rewind()
    ring.write({"b": torch.tensor(4.0)})
    names, losses, present = ring.read()
    assert names == ["a", "b"]
    assert losses.tolist() == [[0, 4], [0, 0]] and present.tolist() == [[False, True], [False, False]]


def test_writing_twice_from_one_recording_needs_no_host() -> None:
    """A replay repeats the tensor operations of `write` alone: its row must come from the device."""
    ring = LossRing(3, CPU)
    loss = torch.tensor(1.0)
    ring.write({"a": loss})
    row = torch.stack([loss, torch.ones(())]).view(1, 2, 1)
    ring._table[..., :1].index_copy_(0, ring._row, row)
    assert ring.read()[1].tolist() == [[1], [1], [0]]


def test_too_many_parts_are_refused() -> None:
    ring = LossRing(1, CPU, columns=1)
    with pytest.raises(ValueError, match="a loss of 2 parts; a ring holds 1 at most"):
        ring.write({"a": torch.tensor(1.0), "b": torch.tensor(1.0)})
