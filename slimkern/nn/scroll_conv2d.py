"""A convolution whose sub-networks share one weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimkern.nn.deferred import DeferredConvolution
from slimkern.nn.scroll_layer import ScrollLayer
from slimkern.ops import backends
from slimkern.ops.checks import autocast
from slimkern.ops.convolution import Convolution, torch_is_mistaken
from slimkern.ops.rotation import read, read_bias
from slimkern.width_batch import WidthBatch
from slimkern.widths import Widths


class ScrollConv2d(ScrollLayer, nn.Conv2d):
    """`torch.nn.Conv2d` at several widths, with a ranking of its channels that scrolls.

    A tensor goes through the whole layer, a WidthBatch through the sub-networks of its widths. Takes the arguments of
    `torch.nn.Conv2d` in the same order; at width 1.0 and scroll 0 it is exactly that. Groups are cut whole.

    Args:
        widths: a number of even widths, or ascending fractions that end in 1.0.
        whole_in: widths don't apply to the input channels.
        whole_out: widths don't apply to the output channels.

    Shape:
        [N, C_in, H, W] to [N, C_out, H', W'] as a tensor; [N, w*C_in, H, W] to [N, w*C_out, H', W'] for each slab.

    Raises:
        ValueError: channels or groups that the widths don't divide; groups with one axis whole and the other sliced.
    """

    _axes = ("in_channels", "out_channels")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.groups > 1 and self.whole_in != self.whole_out:
            raise ValueError(f"groups={self.groups}: whole_in and whole_out must agree, as groups are cut whole")
        if self.groups > 1 and not self.whole_in:
            self.widths.check_divide(self.groups, "groups", " since groups are cut whole")

    @classmethod
    def from_parent(
        cls, conv: nn.Conv2d, widths: int | Sequence[float] | Widths, whole_in: bool = False, whole_out: bool = False
    ) -> ScrollConv2d:
        """The same layer at several widths. The parameters are not copied: they are the given layer's own.

        Raises:
            ValueError: as the constructor.
        """
        layer = cls(
            conv.in_channels, conv.out_channels, _pair(conv.kernel_size), _pair(conv.stride), _padding(conv.padding),
            _pair(conv.dilation), conv.groups, conv.bias is not None, conv.padding_mode, device="meta",
            widths=widths, whole_in=whole_in, whole_out=whole_out,
        )  # fmt: skip
        layer.weight, layer.bias = conv.weight, conv.bias
        return layer.train(conv.training)

    def extract(self, width: float) -> nn.Conv2d:
        """The sub-network of one width as an ordinary `torch.nn.Conv2d` with weights of its own.

        Raises:
            ValueError: `width` is none of this layer's.
        """
        inputs, outputs = self._sizes_at(width)
        cut = self.groups > 1 and not self.whole_in
        conv = nn.Conv2d(
            inputs, outputs, _pair(self.kernel_size), _pair(self.stride), _padding(self.padding), _pair(self.dilation),
            self.widths.channels(self.groups, width) if cut else self.groups, self.bias is not None,
            self.padding_mode, device="meta",
        )  # fmt: skip
        out_offset, in_offset = self._offsets()
        columns = (inputs, in_offset) if self.groups == 1 else (self.weight.shape[1], 0)
        part = read(self.weight.detach(), (outputs, columns[0]), (out_offset, columns[1])).clone()
        conv.weight = nn.Parameter(part, self.weight.requires_grad)
        if self.bias is not None:
            own = read_bias(self.bias.detach(), outputs, out_offset)
            conv.bias = nn.Parameter(own.clone(), self.bias.requires_grad)
        return conv.train(self.training)

    def forward(self, input: Tensor | WidthBatch) -> Tensor | WidthBatch:
        """Answer a tensor at width 1.0, a WidthBatch at its widths."""
        if not isinstance(input, WidthBatch):
            is_plain = self.scroll == 0 and not torch_is_mistaken(input, self.weight, self.stride, self.padding)
            return super().forward(input) if is_plain else self._apply_whole(input)
        if input.shared:
            return self._answer(input, 1, self._apply_slabs)
        widths, outputs = self._accept(input, 1)
        return WidthBatch.deferred(self._put_off(input.slabs, outputs), widths, input)

    def _apply_whole(self, images: Tensor) -> Tensor:
        if images.dim() == 3:
            return self._apply_whole(images[None])[0]
        (result,) = self._apply_slabs([images], [self.out_channels])
        return result if images.is_contiguous(memory_format=torch.channels_last) else result.contiguous()

    def _apply_slabs(self, slabs: Sequence[Tensor], outputs: list[int]) -> list[Tensor]:
        return self._put_off(slabs, outputs)((), False)

    def _put_off(self, slabs: Sequence[Tensor], outputs: list[int]) -> DeferredConvolution:
        left, right, top, bottom = self._reversed_padding_repeated_twice
        padding = [top, left]
        if self.padding_mode != "zeros" or left != right or top != bottom:
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            slabs, padding = [F.pad(slab, [left, right, top, bottom], mode) for slab in slabs], [0, 0]
        slabs, weight, bias = autocast(slabs, self.weight, self.bias)
        convolution = Convolution(weight, *self._offsets(), self.stride, padding, self.dilation, self.groups)
        return DeferredConvolution(slabs, convolution, bias, outputs)

    def extra_repr(self) -> str:
        """Arguments, widths, scroll and backend."""
        return f"{super().extra_repr()}, {self._slimming_repr(backends.describe('scroll_conv2d', self.weight.device))}"


def _padding(padding: str | tuple[int, ...]) -> str | tuple[int, int]:
    return padding if isinstance(padding, str) else _pair(padding)


def _pair(numbers: tuple[int, ...]) -> tuple[int, int]:
    first, second = numbers
    return first, second
