"""The weight's and the bias's gradient of `scroll_conv2d`, summed over all slabs in two launches."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import gcd
from typing import Any

import torch
from torch import Tensor

from slimkern.kernels.capturing import keep_for_graphs
from slimkern.kernels.configurations import ReductionConfiguration
from slimkern.kernels.geometry import Geometry, Pair
from slimkern.kernels.launch import INTERPRETED, Unsuitable, check_boxes, on_device, precision, programs, with_scratch
from slimkern.kernels.reduction_plan import plan_reduction
from slimkern.kernels.scroll_conv2d_reduction import add_partial_sums, sum_boxes, sum_pixels
from slimkern.kernels.scroll_conv2d_rows import check_every_pixel
from slimkern.kernels.slab_table import SlabTable

PLANS = 4096
"""Plans that are kept; a network needs one for each layer at each scroll."""

ELEMENTS, AT_ONCE = 512, 8
"""Elements of a tile whose partial sums a program adds, and how many of those it loads together."""


def weight_gradient(
    grads: Sequence[Tensor],
    slabs: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor] | None,
    table: SlabTable,
    geometry: Geometry,
    configuration: ReductionConfiguration,
    products: str | None = None,
) -> tuple[list[Tensor], list[Tensor] | None]:
    """Sum the gradients of stored weights and biases over all slabs that read them; the same bits each time.

    Args:
        grads: of the results, packed channels-last [N, outputs, H', W'], one a row; those of frozen rows aren't read.
        slabs: the input tensors that rows call sources, packed channels-last [N, C, H, W] of the same dtype.
        weights: the stored weights [C_out, C_in, height, width] that rows call theirs. Only their shapes, strides and
            dtypes matter: float32 ones get the sums as they are.
        biases: a vector for each of the weights, or None.
        table: one row a slab.
        geometry: kernel, stride, padding, dilation.
        configuration: tile, warps and stages.
        products: how those of float32 are formed, ieee or tf32; as PyTorch's switch for convolutions says if None.

    Returns:
        A gradient for each weight, at its strides, with exact zeros where no slab reads; likewise for each bias,
        or None.
    """
    of_weights = [torch.empty_strided(w.shape, w.stride(), dtype=w.dtype, device=w.device) for w in weights]
    of_biases = None if biases is None else [torch.empty_like(bias) for bias in biases]
    image, result = (tuple(tensors[0].shape[2:]) for tensors in (slabs, grads))
    channels = tuple(slab.shape[1] for slab in slabs)
    pixels = slabs[0].shape[0] * result[0] * result[1]
    plan = _plan(table, geometry, image, result, pixels, channels, configuration, biases is not None, slabs[0].device)
    plan.launch(slabs, grads, pixels, of_weights, of_biases, products)
    return of_weights, of_biases


@dataclass(frozen=True, eq=False)
class Plan:
    """Both launches, but for the tensors they are given.

    How the sums are cut is planned by the first launch of each kind, as it depends on how many programs a device holds
    at once, and that on the code that Triton compiles.

    Attributes:
        kernel: `sum_pixels` or `sum_boxes`.
        table: the slabs.
        channels: of each input tensor.
        taps: of the convolution's kernel.
        configuration: of the tiles.
        device: that everything is on.
        partial_sum: elements of one.
        constants: of the kernel.
        constants_of_sum: of the one that adds partial sums.
        numbers: by kind of launch, on the device, the tables of a `ReductionPlan`.
    """

    kernel: Any
    table: SlabTable
    channels: tuple[int, ...]
    taps: int
    configuration: ReductionConfiguration
    device: torch.device
    partial_sum: int
    constants: dict[str, Any]
    constants_of_sum: dict[str, Any]
    numbers: dict[Hashable, tuple[Tensor, ...]] = field(default_factory=dict)

    def launch(
        self,
        slabs: Sequence[Tensor],
        grads: Sequence[Tensor],
        pixels: int,
        of_weights: Sequence[Tensor],
        of_biases: Sequence[Tensor] | None,
        products: str | None,
    ) -> None:
        """Write the gradients."""
        constants = {"PRECISION": products or precision(slabs[0].dtype), "UPCAST": INTERPRETED, **self.constants}
        kind = (slabs[0].dtype, constants["PRECISION"])
        if kind not in self.numbers:
            self.numbers[kind] = self._cut(slabs, grads, pixels, constants)
        numbers = self.numbers[kind]
        keep_for_graphs(self, self.device)
        items = len(numbers[1])
        partial_sums = slabs[0].new_empty(items, self.partial_sum, dtype=torch.float32)
        arguments = (tuple(slabs), tuple(grads), *numbers[:3], partial_sums, pixels)
        if items and self.kernel is sum_pixels:
            self.kernel[(items,)](*arguments, **constants)
        elif items:
            with_scratch(slabs[0].device, lambda: self.kernel[(items,)](*arguments, **constants))
        second: Any = add_partial_sums
        second[(len(numbers[3]), -(-self.partial_sum // ELEMENTS))](
            partial_sums,
            *numbers[3:],
            tuple(of_weights),
            None if of_biases is None else tuple(of_biases),
            ELEMENTS=ELEMENTS,
            AT_ONCE=AT_ONCE,
            **self.constants_of_sum,
        )

    def _cut(
        self, slabs: Sequence[Tensor], grads: Sequence[Tensor], pixels: int, constants: dict[str, Any]
    ) -> tuple[Tensor, ...]:
        stand_ins = [slabs[0].new_zeros(1, dtype=dtype) for dtype in (*[torch.int32] * 3, torch.float32)]
        arguments = (tuple(slabs), tuple(grads), *stand_ins, pixels)
        items = self.configuration.waves * programs(self.device, self.configuration, self.kernel, arguments, constants)
        tables = plan_reduction(self.table, self.channels, self.taps, self.configuration, pixels, items)
        return tuple(on_device(array, self.device) for array in tables)


@lru_cache(PLANS)
def _plan(
    table: SlabTable,
    geometry: Geometry,
    image: Pair,
    result: Pair,
    pixels: int,
    channels: tuple[int, ...],
    configuration: ReductionConfiguration,
    bias: bool,
    device: torch.device,
) -> Plan:
    # A tile's columns are taps of so many channels: longer stretches than those aren't contiguous.
    alignment = gcd(
        8, configuration.inputs, *channels, *(count for row in table for count in (row.inputs, row.first_input))
    )
    if configuration.boxes:
        check_boxes(device)
        check_every_pixel(image, geometry.stride)
        _check_box(configuration, result, alignment)
    tile = {
        "KERNEL": geometry.kernel,
        "TAPS": configuration.taps,
        "INPUTS": configuration.inputs,
        "OUTPUTS": configuration.outputs,
        "BIAS": bias,
    }
    constants = {
        "IMAGE": image,
        "RESULT": result,
        "STRIDE": geometry.stride,
        "PADDING": geometry.padding,
        "DILATION": geometry.dilation,
        "ALIGNMENT": alignment,
        "PIXELS": configuration.pixels,
        "num_warps": configuration.warps,
        "num_stages": configuration.stages,
    }
    return Plan(
        sum_boxes if configuration.boxes else sum_pixels,
        table,
        channels,
        geometry.kernel[0] * geometry.kernel[1],
        configuration,
        device,
        (configuration.taps * configuration.inputs + bias) * configuration.outputs,
        tile | constants,
        tile,
    )


def _check_box(configuration: ReductionConfiguration, result: Pair, alignment: int) -> None:
    height, width = result
    rows = min(configuration.pixels // width, height)
    whole = rows and configuration.pixels % (rows * width) == 0 == height % rows
    if width & (width - 1) or rows & (rows - 1) or not whole:
        raise Unsuitable(f"boxes of {configuration.pixels} pixels don't fit results of {height}x{width}")
    if configuration.taps > 1 or alignment < 8:
        raise Unsuitable("boxes want tiles of one tap, and input channels in multiples of 8")
