"""What a step leaves on the weights as their gradients, for a replay to leave the same."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


class Gradients:
    """Finds out whether a step drops the gradients that it finds, before it gives weights new ones.

    Meanwhile weights without a gradient have one of zeros: adding to it changes nothing, and shows. Of leaves that come
    to light only in the step it is taken for granted that it drops their gradients.

    Args:
        weights: those that are known beforehand.
    """

    def __init__(self, weights: Iterable[Tensor]) -> None:
        self._leaves = {id(own): own for own in weights if own.requires_grad and own.is_leaf}
        self._known = set(self._leaves)
        bare = (
            [] if torch.is_inference_mode_enabled() else [key for key in self._known if self._leaves[key].grad is None]
        )
        self._lent = {key: torch.zeros_like(self._leaves[key]) for key in bare}
        for key, zeros in self._lent.items():
            self._leaves[key].grad = zeros

    def note(self, tensor: Tensor) -> None:
        """Look after the gradient of one more tensor, if it is a leaf."""
        if tensor.requires_grad and tensor.is_leaf:
            self._leaves.setdefault(id(tensor), tensor)

    def take_back(self) -> None:
        """Leave no zeros behind that the step knows nothing of."""
        for key, zeros in self._lent.items():
            own = self._leaves[key]
            if own.grad is zeros and not zeros._version:
                own.grad = None
                self._known.discard(key)  # the step leaves its gradient alone

    def given(self) -> list[tuple[Tensor, Tensor]]:
        """Leaves that have a gradient after the step, with it."""
        return [(own, own.grad) for own in self._leaves.values() if own.grad is not None]

    def dropped(self) -> list[Tensor]:
        """Leaves whose gradient the step has dropped without giving them another."""
        return [own for key, own in self._leaves.items() if own.grad is None and key in self._known]
