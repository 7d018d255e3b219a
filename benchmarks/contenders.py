"""Ways to train all widths of ResNet-18 in one step: slimkern, and what it is measured against.

All compute the same loss from the same weights: the sum of the cross-entropies of all sub-networks. A contender is that
loss as a function of images and labels, with the parameters that it learns.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import slimkern as sk
from slimkern.models import resnet18
from slimkern.models.resnet import ResNet
from slimkern.widths import Widths

Loss = Callable[[Tensor, Tensor], Tensor]
Read = Callable[[Tensor, tuple[int, int], tuple[int, int]], Tensor]
"""A stored weight, the rows and columns of a part, the row and column that it begins at: the part."""


@dataclass(frozen=True)
class Contender:
    """A loss of images and labels, what is learned, and how images lie in memory."""

    loss: Loss
    parameters: list[nn.Parameter]
    layout: torch.memory_format = torch.channels_last


def plain(base: nn.Module) -> Contender:
    """The whole network alone: what a step costs without sub-networks."""
    net = _copied(base)
    return Contender(lambda images, labels: F.cross_entropy(net(images), labels), list(net.parameters()))


def slimkern(base: ResNet, widths: Widths, scroll: int) -> Contender:
    """All widths in one pass, and their heads and losses in one operator."""
    net = sk.scrollify(_copied(base), widths, whole_in=["conv1"], whole_out=["head"])
    sk.scroll_to(net, task=scroll)

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        return sk.cross_entropies(net.maps(sk.every_width(images)), [net.head], labels).sum()

    return Contender(loss, list(net.parameters()))


def passes(
    base: nn.Module,
    widths: Widths,
    scroll: int,
    read: Read,
    layout: torch.memory_format = torch.channels_last,
    streams: bool = False,
) -> Contender:
    """A pass for each width, on streams of their own or one after the other."""
    shared = _copied(base, layout)
    nets = [_sub_network(shared, widths, width, scroll, read) for width in widths.fractions]

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        return torch.stack([F.cross_entropy(net(images), labels) for net in nets]).sum()

    def loss_on_streams(images: Tensor, labels: Tensor) -> Tensor:
        losses, present = [], torch.cuda.current_stream()
        for net, stream in zip(nets, own_streams, strict=True):
            stream.wait_stream(present)
            with torch.cuda.stream(stream):
                losses.append(F.cross_entropy(net(images), labels))
        for stream in own_streams:
            present.wait_stream(stream)
        return torch.stack(losses).sum()

    own_streams = [torch.cuda.Stream() for _ in nets] if streams else []
    parameters = {id(own): own for net in (shared, *nets) for own in _learned(net, shared)}
    return Contender(loss_on_streams if streams else loss, list(parameters.values()), layout)


def by_concatenation(weight: Tensor, counts: tuple[int, int], offsets: tuple[int, int]) -> Tensor:
    """Roll the whole weight along both axes, then cut the part out, as the released ScrollNet code does."""
    for axis, offset in enumerate(offsets[: weight.dim()]):
        head, tail = weight.split([offset, weight.shape[axis] - offset], axis)
        weight = torch.cat((tail, head), axis)
    return by_views(weight, counts, (0, 0))


def by_views(weight: Tensor, counts: tuple[int, int], offsets: tuple[int, int]) -> Tensor:
    """Take the part alone, as a view unless it wraps around."""
    for axis, (count, offset) in enumerate(zip(counts, offsets, strict=True)):
        before_end = min(count, weight.shape[axis] - offset)
        part = weight.narrow(axis, offset, before_end)
        if before_end < count:
            part = torch.cat((part, weight.narrow(axis, 0, count - before_end)), axis)
        weight = part
    return weight


def masked(base: nn.Module, widths: Widths) -> Contender:
    """The whole network on as many copies of the batch as there are widths, channels beyond a copy's width set to zero.

    Only unscrolled: rolled weights would be one more copy of each.
    """
    net = _replaced(_copied(base), nn.BatchNorm2d, lambda name, norm: _MaskedNorms(norm, widths))

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        logits = net(images.repeat(len(widths.shares), 1, 1, 1).contiguous(memory_format=torch.channels_last))
        return torch.stack([F.cross_entropy(own, labels) for own in logits.chunk(len(widths.shares))]).sum()

    return Contender(loss, list(net.parameters()))


def base_network(channels: int = 64) -> ResNet:
    """ResNet-18 with one hundred classes, from a fixed seed."""
    torch.manual_seed(0)
    return resnet18(100, channels=channels)


def _copied(base: nn.Module, layout: torch.memory_format = torch.channels_last) -> nn.Module:
    return copy.deepcopy(base).to(memory_format=layout).train()


def _learned(net: nn.Module, shared: nn.Module) -> Iterable[nn.Parameter]:
    """Weights of the shared network, and the batch norms of the others."""
    if net is shared:
        return (
            own for module in net.modules() if isinstance(module, (nn.Conv2d, nn.Linear)) for own in module.parameters()
        )
    return (own for module in net.modules() if isinstance(module, nn.BatchNorm2d) for own in module.parameters())


def _sub_network(shared: nn.Module, widths: Widths, width: float, scroll: int, read: Read) -> nn.Module:
    """A network of one width that reads the weights of `shared` and has batch norms of its own."""

    def part(name: str, layer: nn.Conv2d | nn.Linear) -> nn.Module:
        sizes = layer.weight.shape[:2]
        whole = (isinstance(layer, nn.Linear), name == "conv1")
        counts = [size if own else widths.channels(size, width) for size, own in zip(sizes, whole, strict=True)]
        offsets = [0 if own else widths.offset(size, scroll) for size, own in zip(sizes, whole, strict=True)]
        return _Part(layer, partial(read, counts=tuple(counts), offsets=tuple(offsets)))

    def norm(name: str, layer: nn.BatchNorm2d) -> nn.Module:
        own = nn.BatchNorm2d(widths.channels(layer.num_features, width))
        return own.to(layer.weight.device)

    skeleton = copy.deepcopy(shared, {id(own): own for own in shared.parameters()})
    net = _replaced(skeleton, nn.Conv2d, part)
    return _replaced(_replaced(net, nn.Linear, part), nn.BatchNorm2d, norm)


def _replaced(net: nn.Module, kind: type[nn.Module], make: Callable) -> nn.Module:
    for name, module in list(net.named_modules()):
        if type(module) is kind:
            net.set_submodule(name, make(name, module))
    return net


class _Part(nn.Module):
    """A convolution or linear layer that reads a part of another one's weight."""

    def __init__(self, layer: nn.Conv2d | nn.Linear, part: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.weight, self.bias, self.part = layer.weight, layer.bias, part
        self.geometry = (layer.stride, layer.padding) if isinstance(layer, nn.Conv2d) else None

    def forward(self, x: Tensor) -> Tensor:
        if self.geometry is None:
            return F.linear(x, self.part(self.weight), self.bias)
        return F.conv2d(x, self.part(self.weight), None, *self.geometry)


class _MaskedNorms(nn.Module):
    """A batch norm for each copy of the batch, on all channels, and zeros beyond the width of the copy."""

    def __init__(self, norm: nn.BatchNorm2d, widths: Widths) -> None:
        super().__init__()
        self.norms = nn.ModuleList(copy.deepcopy(norm) for _ in widths.fractions)
        counts = torch.tensor([widths.channels(norm.num_features, width) for width in widths.fractions])
        mask = (torch.arange(norm.num_features) < counts[:, None])[:, :, None, None].to(norm.weight)
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        copies: Sequence[Tensor] = x.chunk(len(self.norms))
        return torch.cat([norm(own) * mask for norm, own, mask in zip(self.norms, copies, self.mask, strict=True)])
