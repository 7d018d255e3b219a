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
        self._versions = [_version(tensor) for tensor in tensors]

    def refuse_changes(self, what: str) -> None:
        """Raise if one was changed since.

        Raises:
            ChangedError: the message names `what` was changed.
        """
        if self._versions != [_version(tensor) for tensor in self._tensors]:
            raise ChangedError(
                f"{what} was modified in place before the result was used; use the result first, or modify a copy"
            )


def in_inference_mode() -> bool:
    """Whether tensors made now will not count their changes; always no while tracing, where nothing can ask."""
    return not torch.compiler.is_compiling() and torch.is_inference_mode_enabled()


def _version(tensor: Tensor) -> int | None:
    """The count, where there is one: not while tracing, nor in inference mode."""
    return None if torch.compiler.is_compiling() or tensor.is_inference() else tensor._version
