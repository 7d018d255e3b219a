"""Batch norms in evaluation mode, folded into the convolutions before them.

What is folded is derived from the parameters, kept as long as they stay as they are, and never part of a state dict.
"""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

Folded = tuple[Tensor, Tensor]
"""Weight and bias of a convolution."""

_KEPT: WeakKeyDictionary[nn.Conv2d, tuple[tuple, Folded]] = WeakKeyDictionary()


def folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Folded:
    """Weight and bias of the convolution that does both, the batch norm in evaluation mode."""
    learned = (*conv._parameters.values(), *norm._parameters.values())
    differentiated = torch.is_grad_enabled() and any(own is not None and own.requires_grad for own in learned)
    if differentiated or torch.compiler.is_compiling() or torch.is_inference_mode_enabled():
        return fold(conv, norm)
    return kept(conv, norm, "as convolutions take it", lambda: fold(conv, norm))


def fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Folded:
    """What `folded` gives, computed."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    weight = conv.weight * scale[:, None, None, None]
    return weight.contiguous(memory_format=torch.channels_last), norm.bias - norm.running_mean * scale


def kept(conv: nn.Conv2d, norm: nn.BatchNorm2d, form: str, make: Callable[[], Folded]) -> Folded:
    """What `make` gave for these two and this form of result, and gives anew once a tensor of theirs has changed."""
    # From the dictionaries, as a module looks names up slowly and every convolution comes here in every step.
    sources = (*conv._parameters.values(), *norm._parameters.values(), *norm._buffers.values())
    versions = ((own.untyped_storage()._cdata, own._version) for own in sources if own is not None)
    state = (form, norm.eps, *versions)
    found = _KEPT.get(conv)
    if found is None or found[0] != state:
        found = _KEPT[conv] = state, make()
    return found[1]
