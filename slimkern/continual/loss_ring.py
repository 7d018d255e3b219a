"""The losses of an epoch, kept on the device until all are read at once."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class LossRing:
    """A table of losses on the device, with a row for each step and a column for each part of the loss.

    The row that is written next is counted on the device too, so that a captured step can be replayed. A step may lack
    parts that others have.

    Args:
        steps: rows; after the last one the first is written again.
        device: where the losses are.
        columns: how many different parts there may be.

    Attributes:
        steps: as given.
    """

    def __init__(self, steps: int, device: torch.device, columns: int = 64) -> None:
        self.steps = steps
        self._table = torch.zeros(steps, 2, columns, device=device)  # the parts, and which of them there were
        self._row = torch.zeros(1, dtype=torch.long, device=device)
        self._absent, self._present = torch.zeros((), device=device), torch.ones((), device=device)
        self._columns: dict[str, int] = {}

    @property
    def losses(self) -> Tensor:
        """The parts of all rows on the device, float32 [steps, parts], to be changed in place before they are read."""
        return self._table[:, 0, : len(self._columns)]

    def rewind(self) -> None:
        """Forget all losses and begin with the first row."""
        self._table.zero_()
        self._row.zero_()

    def write(self, parts: Mapping[str, Tensor]) -> None:
        """Note the parts of one step's loss, scalars each; nothing is read back.

        Raises:
            ValueError: more different parts than the ring has columns.
        """
        for name in parts:
            self._columns.setdefault(name, len(self._columns))
        if len(self._columns) > self._table.shape[2]:
            raise ValueError(f"a loss of {len(self._columns)} parts; a ring holds {self._table.shape[2]} at most")
        values = [parts[name].detach().float() if name in parts else self._absent for name in self._columns]
        flags = [self._present if name in parts else self._absent for name in self._columns]
        row = torch.stack([*values, *flags]).view(1, 2, len(self._columns))
        self._table[..., : len(self._columns)].index_copy_(0, self._row, row)
        self._row.add_(1).remainder_(len(self._table))

    def read(self) -> tuple[list[str], Tensor, Tensor]:
        """Wait for the device and read all rows.

        Returns:
            The names of the parts; the parts, float32 [steps, parts], 0 where a step had none of that name; whether it
            had, bool [steps, parts]. Both are on the CPU.
        """
        losses, flags = self._table[..., : len(self._columns)].cpu().unbind(1)
        return list(self._columns), losses, flags.bool()
