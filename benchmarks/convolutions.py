"""The layers of ResNet-18 on 32x32 images at four widths, and how PyTorch and slimkern compute them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from slimkern.kernels.geometry import Geometry
from slimkern.ops import pack_weights
from slimkern.ops.rotation import sum_of_prefixes

SHARES = (1, 2, 3, 4)
SCROLL = 3

Call = Callable[[], object]


class Layer(NamedTuple):
    """A convolution, the side of its input, and how often ResNet-18 has it."""

    inputs: int
    outputs: int
    kernel: int
    stride: int
    side: int
    count: int

    def __str__(self) -> str:
        size = f"{self.kernel}x{self.kernel}"
        return f"{self.inputs}>{self.outputs} {size} stride {self.stride} on {self.side}x{self.side}"


LAYERS = [Layer(3, 64, 3, 1, 32, 1), Layer(64, 64, 3, 1, 32, 4)]
for channels, side in ((64, 32), (128, 16), (256, 8)):
    LAYERS += [
        Layer(channels, 2 * channels, 3, 2, side, 1),
        Layer(channels, 2 * channels, 1, 2, side, 1),
        Layer(2 * channels, 2 * channels, 3, 1, side // 2, 3),
    ]


class Work:
    """Tensors of a layer at four widths, scrolled by so many blocks, and the calls of each contender."""

    def __init__(self, layer: Layer, batch: int, dtype: torch.dtype, device: str, scroll: int = SCROLL) -> None:
        self.layer = layer
        self.stem = layer.inputs == 3
        padding = layer.kernel // 2
        self.geometry = Geometry((layer.kernel,) * 2, (layer.stride,) * 2, (padding,) * 2)
        self.batch, self.image = batch, (layer.side, layer.side)
        result = self.geometry.result(self.image)
        options = {"dtype": dtype, "device": device}

        def packed(*shape: int) -> Tensor:
            return torch.randn(*shape, **options).contiguous(memory_format=torch.channels_last)

        self.outputs = tuple(layer.outputs * share // 4 for share in SHARES)
        self.inputs = (3,) if self.stem else tuple(layer.inputs * share // 4 for share in SHARES)
        self.slabs = [packed(batch, count, *self.image) for count in self.inputs]
        self.grads = [packed(batch, count, *result) for count in self.outputs]
        self.weight = packed(layer.outputs, layer.inputs, layer.kernel, layer.kernel)
        self.master = self.weight.float()
        self.offsets = (layer.outputs * scroll // 4, 0 if self.stem else layer.inputs * scroll // 4)
        self.inputs_of = self.inputs * (len(SHARES) // len(self.inputs))
        self.parts = self.pack()

    def by_torch(self, operation: str) -> list[Call]:
        """A call a slab; a stem is computed once, as slimkern's plain torch backend does."""
        if not self.stem:
            arguments = zip(self.slabs, self.grads, self.parts, strict=True)
            return [partial(self.convolve, operation, *each) for each in arguments]

        def stem() -> None:
            if operation == "forward":
                whole = self.convolve(operation, self.slabs[0], None, self.parts[-1])
                for outputs in self.outputs[:-1]:
                    whole[:, :outputs].clone(memory_format=torch.channels_last)
            else:
                self.convolve(operation, self.slabs[0], sum_of_prefixes(self.grads, axis=1), self.parts[-1])

        return [stem]

    def plain(self, operation: str) -> Call:
        """The widest slab alone."""
        return partial(self.convolve, operation, self.slabs[-1], self.grads[-1], self.parts[-1])

    def convolve(self, operation: str, slab: Tensor, grad: Tensor | None, weight: Tensor) -> Tensor:
        _, stride, padding, dilation = self.geometry
        if operation == "forward":
            return F.conv2d(slab, weight, None, stride, padding, dilation)
        needed = [operation == "input gradient", operation == "weight gradient", False]
        of_slab, of_weight, _ = torch.ops.aten.convolution_backward(
            grad, slab, weight, None, stride, padding, dilation, False, [0, 0], 1, needed
        )
        return of_slab if needed[0] else of_weight

    def by_triton(self, operation: str, way: str) -> tuple[Any, Callable[[Any], object]] | None:
        """The problem that a tuner knows the pass by, and the pass of a configuration; None where there is none.

        Where the way is to pack, the forward pass does, and the input gradient reads what it packed.
        """
        from slimkern.kernels.scroll_conv2d import forward, input_gradient
        from slimkern.kernels.scroll_conv2d_stem import forward_shared
        from slimkern.kernels.scroll_conv2d_weight_gradient import weight_gradient
        from slimkern.kernels.slab_table import nested, packed
        from slimkern.ops.convolution import Convolution
        from slimkern.ops.triton import problem_of

        geometry, convolution = self.geometry, Convolution(self.weight, *self.offsets, *self.geometry[1:], 1)
        nests = nested(self.weight, self.inputs, self.outputs, *self.offsets)
        reduces = operation == "weight gradient"
        if way == "packed" and (reduces or self.stem):
            return None
        named = "stem" if self.stem and not reduces else operation
        outputs = self.outputs[-1:] if self.stem and reduces else self.outputs
        problem = problem_of(named, self.slabs[0], self.inputs_of[: len(outputs)], outputs, convolution)

        def reduce(own: Any) -> object:
            grads, table = self.grads, nests
            if self.stem:
                grads, table = [sum_of_prefixes(grads, axis=1)], nests[-1:]
            return weight_gradient(grads, self.slabs, [self.master], None, table, geometry, own)

        def read(packs: bool) -> tuple[list[Tensor], Any]:
            if way == "in place":
                return [self.weight], nests
            parts = self.pack() if packs else self.parts
            return [flat(parts[0])], packed(parts, self.inputs)

        def convolve(own: Any) -> object:
            if self.stem:
                return forward_shared(self.slabs[0], self.weight, None, nests, geometry, own)[0]
            weights, table = read(packs=True)
            return forward(self.slabs, weights, None, table, geometry, own)[0]

        def back(own: Any) -> object:
            weights, table = read(packs=False)
            return input_gradient(self.grads, weights, table, geometry, self.image, own)

        return problem, {"forward": convolve, "input gradient": back, "weight gradient": reduce}[operation]

    def pack(self) -> list[Tensor]:
        """Every sub-network's weight of its own."""
        sizes = zip(self.outputs, self.inputs_of, strict=True)
        return pack_weights([self.master], [(0, *size, *self.offsets) for size in sizes], self.weight.dtype)

    def floor(self, operation: str, flops_a_second: float, bytes_a_second: float) -> float:
        """Seconds that all sub-networks need at least."""
        size = self.weight.element_size()
        flops = elements = 0.0
        for slab, grad, part in zip(self.slabs * (len(SHARES) // len(self.slabs)), self.grads, self.parts, strict=True):
            flops += 2 * grad.numel() * part[0].numel()
            elements += grad.numel() + slab.numel() / (len(SHARES) if self.stem else 1)
        moved = elements * size + self.weight.numel() * (4 if operation == "weight gradient" else size)
        return max(flops / flops_a_second, moved / bytes_a_second)


def flat(part: Tensor) -> Tensor:
    """The whole buffer that a packed part is a view of."""
    storage = part.untyped_storage()
    return part.new_empty(0).set_(storage, 0, (storage.nbytes() // part.element_size(),))
