"""What recording a step gives, whatever device it is on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

Step = Callable[..., Any]
"""A function of tensors."""


class Recorded(NamedTuple):
    """A step that was taken while being recorded.

    Attributes:
        result: what it gave.
        replay: takes it again, with tensors of the same shapes, dtypes and layouts; None if it couldn't be recorded.
        reason: why not.
    """

    result: Any
    replay: Step | None = None
    reason: str | None = None


class Graphs(Protocol):
    """How steps are recorded."""

    def refuses_step(self, step: Step, modules: Sequence[nn.Module]) -> str | None:
        """Why a step that uses these modules can't be recorded; None if it may be."""
        ...

    def refuses(self, tensors: Sequence[Tensor]) -> str | None:
        """Why a call with these tensors can't be recorded; None if it may be."""
        ...

    def warm_up(self, step: Step, tensors: Sequence[Tensor]) -> Any:
        """Take the step eagerly, in the way that lets recordings follow; the result."""
        ...

    def record(self, step: Step, tensors: Sequence[Tensor], modules: Sequence[nn.Module] = ()) -> Recorded:
        """Take a step that uses these modules and record it; where it can't be, it has been taken all the same."""
        ...
