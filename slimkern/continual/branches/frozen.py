"""Frozen blocks on a CPU: a convolution, its batch norm, the shortcut and the ReLU at once.

Weights are kept as they are computed with: those of wide 3x3 convolutions transformed, so that fewer products are
needed, and others in the layout of oneDNN, into which `torch.nn.functional.conv2d` brings them in every call.
`torch.compile` freezes networks by the same operators of oneDNN.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from slimkern.continual.branches.folding import Folded, fold, kept
from slimkern.models.branching_resnet import PlainShortcutBlock
from slimkern.ops import winograd

_NO_SCALARS = ([], "")


def serves(modules: Iterable[nn.Module], x: Tensor) -> bool:
    """Whether `modules`, convolutions and batch norms among them, can be computed here for such an `x`."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
        and not torch.is_autocast_enabled("cpu")
        and not torch.is_inference_mode_enabled()
        and not torch.compiler.is_compiling()
        and not (torch.is_grad_enabled() and x.requires_grad)
        and all(_is_settled(module) for module in modules)
    )


def frozen_blocks(blocks: Iterable[nn.Module], x: Tensor) -> Tensor:
    """What blocks in evaluation mode, one after the other, give for [N, C, H, W]; see `serves`."""
    for block in blocks:
        assert isinstance(block, PlainShortcutBlock)
        inner = frozen_convolution(block.conv1, block.bn1, x)
        x = frozen_convolution(block.conv2, block.bn2, inner, block.shortcut(x))
    return x


def frozen_convolution(conv: nn.Conv2d, norm: nn.BatchNorm2d, x: Tensor, added: Tensor | None = None) -> Tensor:
    """max(norm(conv(x)) + added, 0), the batch norm in evaluation mode; see `serves`."""
    if conv.groups == 1 and len(x) and winograd.pays(conv.weight, conv.stride, conv.padding, conv.dilation):
        factors, bias = kept(conv, norm, "as Winograd computes", lambda: _transformed(fold(conv, norm)))
        return winograd.convolved_and_rectified(x, factors, bias, added)
    geometry = (conv.padding, conv.stride, conv.dilation, conv.groups)
    weight, bias = kept(conv, norm, "as oneDNN computes", lambda: _packed(fold(conv, norm), geometry, x.shape))
    convolution = torch.ops.mkldnn._convolution_pointwise  # asked for here, as not every PyTorch has it
    if added is None:
        return convolution(x, weight, bias, *geometry, "relu", *_NO_SCALARS)
    return convolution.binary(x, added, weight, bias, *geometry, "add", 1.0, "relu", *_NO_SCALARS)


def _transformed(pair: Folded) -> Folded:
    weight, bias = pair
    return winograd.transformed(weight), bias


def _packed(pair: Folded, geometry: tuple, image: Sequence[int]) -> Folded:
    """The layout is the best for images of this shape; others are computed too, and may cost what they did."""
    weight, bias = pair
    return torch.ops.mkldnn._reorder_convolution_weight(weight, *geometry, image), bias


def _is_settled(module: nn.Module) -> bool:
    if module.training or getattr(module, "padding_mode", "zeros") != "zeros":
        return False
    if not torch.is_grad_enabled():
        return True
    return not any(own is not None and own.requires_grad for own in module._parameters.values())
