"""Noticing that a tensor was changed in place between a call and the work that was put off."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class ChangedError(RuntimeError):
    """Put-off work can't be done any more."""


class Snapshot:
    """Remembers how often each tensor has been changed in place, by the count that autograd keeps too."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = tuple(tensors)
        self._versions = _versions(self._tensors)

    def refuse_changes(self, what: str) -> None:
        """Raise if one was changed since.

        Raises:
            ChangedError: the message names `what` was changed.
        """
        if self._versions != _versions(self._tensors):
            raise ChangedError(
                f"{what} was modified in place before the result was used; use the result first, or modify a copy"
            )


def in_inference_mode() -> bool:
    """Whether tensors made now will not count their changes; always no while tracing, where nothing can ask."""
    return not torch.compiler.is_compiling() and torch.is_inference_mode_enabled()


def _versions(tensors: Sequence[Tensor]) -> list[int | None]:
    """The counts, where there are any: not while tracing, nor in inference mode."""
    if torch.compiler.is_compiling():
        return [None] * len(tensors)
    return [None if tensor.is_inference() else tensor._version for tensor in tensors]
