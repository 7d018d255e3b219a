"""What a step of ResNet-18 costs at least: arithmetic at the best speed that was seen here, memory at that of a copy.

Each convolution's forward pass and its two gradients read their inputs and write their outputs once, and take the
longer of both times. Batch norms with their ReLU, and an addition where there is one, read and write each activation as
often as fused kernels have to, with the statistics summed by the convolution before: 2 or 3 times forward, 5 or 6 times
backward. The update of the weights reads the weights and their gradients and writes the weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from rows import copy_bandwidth, in_turns

_MATRIX = {"cpu": 768, "cuda": 8192}
_IMAGES = {"cpu": 16, "cuda": 256}


@dataclass(frozen=True)
class Machine:
    """The best speeds of many tries in this process: FLOP a second of `arithmetic`, bytes a second of a copy."""

    flops: float
    bandwidth: float

    @classmethod
    @cache
    def measured(cls, dtype: torch.dtype, device: str, tf32: bool = False, budget: float = 10.0) -> Machine:
        """Measure in about `budget` seconds; `tf32` says how PyTorch's switches stand, as its speeds are others."""
        work = arithmetic(dtype, device)
        times = in_turns({name: call for name, (call, _) in work.items()}, 50, 1, device=device, budget=budget / 2)
        return cls(
            max(flops / min(times[name]) for name, (_, flops) in work.items()),
            copy_bandwidth(device, budget=budget / 2),
        )


def arithmetic(dtype: torch.dtype, device: str) -> dict[str, tuple[Callable[[], object], float]]:
    """What a machine is fastest at: a matrix product, and a 3x3 convolution of each stage. Calls, and their FLOP.

    Libraries serve convolutions by code of their own, which may beat their products of matrices. Numbers are random:
    the fewer bits change, the less power a chip takes, and the faster it may run.
    """
    size, images = _MATRIX[device], _IMAGES[device]
    one = torch.randn(size, size, dtype=dtype, device=device)
    work: dict[str, tuple[Callable[[], object], float]] = {"product": (partial(torch.matmul, one, one), 2.0 * size**3)}
    for channels, side in ((64, 32), (128, 16), (256, 8), (512, 4)):
        pixels, weight = (
            torch.randn(shape, dtype=dtype, device=device).contiguous(memory_format=torch.channels_last)
            for shape in ((images, channels, side, side), (channels, channels, 3, 3))
        )
        # FLOP as below, where multiplications by the zeros around an image count too.
        flops = 2.0 * images * channels**2 * (3 * side) ** 2
        work[f"{channels} channels"] = (partial(F.conv2d, pixels, weight, padding=1), flops)
    return work


@dataclass(frozen=True)
class _Conv:
    inputs: int
    outputs: int
    kernel: int
    side: int  # of the output
    stride: int
    count: int
    first: bool = False  # all widths read the same images, and nobody asks for their gradient


def _layers(channels: int) -> list[_Conv]:
    stages = [channels * 2**stage for stage in range(4)]
    layers = [_Conv(3, channels, 3, 32, 1, 1, first=True), _Conv(channels, channels, 3, 32, 1, 4)]
    for stage, (inputs, outputs) in enumerate(pairwise(stages), start=1):
        side = 32 >> stage
        layers += [
            _Conv(inputs, outputs, 3, side, 2, 1),
            _Conv(inputs, outputs, 1, side, 2, 1),
            _Conv(outputs, outputs, 3, side, 1, 3),
        ]
    return layers


def step_floor(
    machine: Machine, batch: int, shares: list[float], bytes_each: int, channels: int = 64, classes: int = 100
) -> dict[str, float]:
    """Seconds of each kind of work in a step that trains the widths `shares`, from 32x32 images.

    Args:
        machine: its speeds.
        batch: images.
        shares: the widths; `[1.0]` for the plain network.
        bytes_each: of a number of an activation.
        channels: of the first stage.
        classes: of the head.
    """
    forward = backward = norms = weights = 0.0
    for layer in _layers(channels):
        flops = to_output = to_input = 0.0
        for share in shares:
            outputs, inputs = layer.outputs * share, layer.inputs * (1 if layer.first else share)
            pixels = batch * layer.side**2
            flops += 2 * pixels * outputs * inputs * layer.kernel**2
            written, read = pixels * outputs, pixels * layer.stride**2 * inputs
            # A pointwise convolution of stride 2 reads a quarter of its input, but writes the whole gradient.
            to_output += bytes_each * (written + (read / layer.stride**2 if layer.kernel == 1 else read))
            to_input += bytes_each * (written + read)
            # Of those with a 3x3 kernel and stride 1, every other one is followed by an addition.
            added = 0.5 if layer.kernel == 3 and layer.stride == 1 and not layer.first else 0.0
            norms += layer.count * bytes_each * written * (2 + 5 + 2 * added) / machine.bandwidth
        size = layer.outputs * layer.inputs * layer.kernel**2
        through_output, through_input = (
            max(flops / machine.flops, (moved + bytes_each * size) / machine.bandwidth)
            for moved in (to_output, to_input)
        )
        forward += layer.count * through_output
        backward += layer.count * (through_output + (0 if layer.first else through_input))
        weights += layer.count * size
    weights += 8 * channels * classes
    return {
        "convolutions forward": forward,
        "convolutions backward": backward,
        "batch norm, ReLU, addition": norms,
        "update of the weights": 4 * 3 * weights / machine.bandwidth,
    }
