"""The convolution of one slab by its sub-network's part of a weight, and its gradients, in plain torch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from slimkern.ops.checks import check_bias, check_channels, check_offset, check_slabs, check_weight
from slimkern.ops.rotation import Gradient, read, read_bias
from slimkern.ops.streams import Run, in_sequence

_VECTOR = 8
"""Numbers of float32 in a vector of AVX2."""


def packed(slab: Tensor) -> Tensor:
    """The slab in channels-last memory; itself if it lies so already."""
    return slab.contiguous(memory_format=torch.channels_last)


class Convolution(NamedTuple):
    """A stored weight [C_out, C_in / groups, height, width] and how it is read and moved over the image."""

    weight: Tensor
    out_offset: int
    in_offset: int
    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    groups: int

    def apply(self, slab: Tensor, bias: Tensor | None, outputs: int) -> Tensor:
        """Convolve a slab [N, C_s, H, W] to packed [N, outputs, H', W']."""
        part, groups = self._part(slab.shape[1], outputs)
        own_bias = None if bias is None else read_bias(bias, outputs, self.out_offset)
        return packed(F.conv2d(packed(slab), part, own_bias, self.stride, self.padding, self.dilation, groups))

    def apply_all(
        self, slabs: Sequence[Tensor], bias: Tensor | None, out_channels: Sequence[int], run: Run[Tensor] = in_sequence
    ) -> list[Tensor]:
        """Convolve every slab, in a call that `run` runs."""
        pairs = zip(slabs, out_channels, strict=True)
        return list(run([partial(self.apply, slab, bias, outputs) for slab, outputs in pairs]))

    def backward(
        self, grad: Tensor, slab: Tensor, needed: Sequence[bool], of_weight: Gradient, of_bias: Gradient
    ) -> Tensor:
        """The slab's gradient (empty if not needed); those of the weight and the bias [C_out, 1] are added in place."""
        to_slab, to_part, to_bias = self._gradients(grad, slab, needed)
        self._add(to_part, to_bias, needed, of_weight, of_bias)
        return to_slab

    def backward_all(
        self,
        grads: Sequence[Tensor],
        slabs: Sequence[Tensor],
        needed: Sequence[bool],
        run: Run[tuple[Tensor, Tensor, Tensor]] = in_sequence,
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """Gradients of the slabs, the weight and the bias, empty if not `needed`; each slab's in a call for `run`."""
        of_weight, of_bias = Gradient(self.weight), Gradient(self.weight.new_empty(self.weight.shape[0], 1))
        # The widest first: its gradient covers the whole weight, so nothing has to be filled with zeros.
        pairs = zip(reversed(grads), reversed(slabs), strict=True)
        of_slabs = []
        for to_slab, to_part, to_bias in run([partial(self._gradients, *pair, needed) for pair in pairs]):
            self._add(to_part, to_bias, needed, of_weight, of_bias)
            of_slabs.append(to_slab)
        return of_slabs[::-1], of_weight.total(needed[1]), of_bias.total(needed[2]).flatten()

    def _gradients(self, grad: Tensor, slab: Tensor, needed: Sequence[bool]) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of a slab (empty if not needed) and of its parts of weight and bias (undefined if not needed)."""
        if torch_is_mistaken(slab, self.weight, self.stride, self.padding):
            return self._gradients_of_seen_pixels(grad, slab, needed)
        part, groups = self._part(slab.shape[1], grad.shape[1])
        to_slab, to_part, to_bias = torch.ops.aten.convolution_backward(
            packed(grad), packed(slab), part, [grad.shape[1]], self.stride, self.padding, self.dilation, False, [0, 0],
            groups, needed,
        )  # fmt: skip
        return packed(to_slab) if needed[0] else slab.new_empty(0), to_part, to_bias

    def _gradients_of_seen_pixels(
        self, grad: Tensor, slab: Tensor, needed: Sequence[bool]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The same without the stride, on the pixels that a strided 1x1 convolution sees."""
        seen = (..., slice(None, None, self.stride[0]), slice(None, None, self.stride[1]))
        to_seen, to_part, to_bias = self._replace(stride=(1, 1))._gradients(grad, slab[seen], needed)
        if not needed[0]:
            return to_seen, to_part, to_bias
        to_slab = torch.zeros_like(packed(slab))
        to_slab[seen] = to_seen
        return to_slab, to_part, to_bias

    def _add(
        self, to_part: Tensor, to_bias: Tensor, needed: Sequence[bool], of_weight: Gradient, of_bias: Gradient
    ) -> None:
        if needed[1]:
            of_weight.add(to_part, (self.out_offset, 0 if self.groups > 1 else self.in_offset))
        if needed[2]:
            of_bias.add(to_bias[:, None], (self.out_offset, 0))

    def output_shapes(self, slabs: Sequence[Tensor], out_channels: Sequence[int]) -> list[list[int]]:
        """The shapes that `apply` gives for each slab."""
        image: Sequence[int] = ()
        sides: list[int] = []
        shapes = []
        for slab, outputs in zip(slabs, out_channels, strict=True):
            if slab.shape[2:] != image:  # hardly ever do slabs differ in that
                image = slab.shape[2:]
                sides = self._sides(image)
            shapes.append([slab.shape[0], outputs, *sides])
        return shapes

    def _sides(self, image: Sequence[int]) -> list[int]:
        return [
            (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            for side, kernel, stride, padding, dilation in zip(
                image, self.weight.shape[2:], self.stride, self.padding, self.dilation, strict=True
            )
        ]

    def _part(self, inputs: int, outputs: int) -> tuple[Tensor, int]:
        """A sub-network's weight and groups; groups are cut whole, so a grouped weight has no input axis to rotate."""
        if self.groups > 1:
            fan_in = self.weight.shape[1]
            return read(self.weight, (outputs, fan_in), (self.out_offset, 0)), inputs // fan_in
        return read(self.weight, (outputs, inputs), (self.out_offset, self.in_offset)), 1


def torch_is_mistaken(slab: Tensor, weight: Tensor, stride: Sequence[int], padding: str | Sequence[int]) -> bool:
    """Whether PyTorch's own weight gradient of a convolution may be wrong, or never come.

    That of 1x1 convolutions with a stride is, in oneDNN 3.12 on CPUs with AVX2 and no AVX-512, for channels-last inputs
    of fewer channels than a vector holds.
    """
    is_strided = max(stride) > 1 and tuple(weight.shape[2:]) == (1, 1) and (padding == "valid" or not any(padding))
    return is_strided and slab.device.type == "cpu" and slab.shape[1] < _VECTOR


def check_convolution(
    operator: str, slabs: Sequence[Tensor], convolution: Convolution, bias: Tensor | None, out_channels: Sequence[int]
) -> None:
    """Refuse what can't be convolved; one slab for several outputs is shared by them.

    Raises:
        ValueError: a wrong rank, channel count, offset, device or dtype, or an empty batch.
    """
    weight = convolution.weight
    rows, columns = weight.shape[0], weight.shape[1] * convolution.groups
    check_slabs(operator, slabs, dim=4)
    check_weight(operator, "weight", weight, slabs[0])
    check_weight(operator, "bias", bias, slabs[0])
    check_bias(operator, bias, rows)
    check_channels(operator, slabs, 1, out_channels, (rows, columns))
    check_offset(operator, "out_offset", convolution.out_offset, rows)
    check_offset(operator, "in_offset", convolution.in_offset, columns)
    if convolution.groups > 1:
        _check_groups(operator, slabs, convolution, out_channels)


def _check_groups(
    operator: str, slabs: Sequence[Tensor], convolution: Convolution, out_channels: Sequence[int]
) -> None:
    fan_in, fan_out = convolution.weight.shape[1], convolution.weight.shape[0] // convolution.groups
    for place, outputs in enumerate(out_channels):
        inputs = slabs[place if len(slabs) > 1 else 0].shape[1]
        if inputs % fan_in or outputs != inputs // fan_in * fan_out:
            raise ValueError(
                f"{operator}: {inputs} input and {outputs} output channels do not cut whole groups of {fan_in} "
                f"inputs and {fan_out} outputs"
            )
    out_offset, in_offset = convolution.out_offset, convolution.in_offset
    if out_offset * fan_in != in_offset * fan_out or in_offset % fan_in:
        raise ValueError(
            f"{operator}: out_offset={out_offset} and in_offset={in_offset} do not start at the same group of "
            f"{fan_in} inputs and {fan_out} outputs"
        )
