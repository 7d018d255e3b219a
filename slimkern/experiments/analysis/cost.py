"""What each width costs: multiply-adds, parameters, latency."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from slimkern.continual.data import IMAGE_SHAPES
from slimkern.continual.methods import METHODS, Method
from slimkern.continual.network import ContinualNet
from slimkern.experiments.runs import METHOD_NAMES
from slimkern.experiments.tables import Spread, Table
from slimkern.models import resnet18
from slimkern.nn import extract
from slimkern.widths import Widths

_SECONDS, _REPETITIONS, _WARM_UP = 2.0, 30, 3


@dataclass(frozen=True)
class Cost:
    """What a sub-network on its own costs.

    Attributes:
        width: its width.
        multiply_adds: of its convolutions and linear layers, for one image.
        parameters: its numbers that are learned, heads of all tasks included.
        milliseconds: median and quartiles of the time that a batch takes; none if it wasn't measured.
    """

    width: float
    multiply_adds: int
    parameters: int
    milliseconds: tuple[float, float, float] | None


@dataclass(frozen=True)
class Shape:
    """All of a run's configuration that its cost depends on; `method` only where it has a network of its own kind."""

    data: str
    channels: int
    widths: tuple[float, ...]
    classes: tuple[int, ...]
    method: str = ""

    @classmethod
    def of(cls, config: dict[str, Any], classes: Sequence[int]) -> Shape:
        """That of a resolved configuration whose tasks have so many classes."""
        method = config["method"] if METHODS[config["method"]].network is not Method.network else ""
        return cls(config["data"], config["channels"], tuple(config["widths"]), tuple(classes), method)

    def __str__(self) -> str:
        return f"{self.data}, {self.channels} channels" + (f", {METHOD_NAMES[self.method]}" if self.method else "")

    def network(self) -> ContinualNet:
        """A network of this shape, with a head for each task and random weights."""
        widths = Widths.of(self.widths)
        method = METHODS[self.method]() if self.method else Method()
        net = method.network(resnet18(None, widths, IMAGE_SHAPES[self.data][0], self.channels), widths)
        for classes in self.classes:
            net.add_head(classes)
        return net


def costs(shape: Shape, widths: Sequence[float], batch: int, device: torch.device | str) -> list[Cost]:
    """The cost of each width, each as an ordinary network that was cut out, in evaluation mode.

    Args:
        shape: of the network.
        widths: those wanted; by default all.
        batch: images that the latency is measured with; 0 measures none.
        device: where it is measured.
    """
    net = shape.network().eval()
    images = IMAGE_SHAPES[shape.data]
    found = []
    for width in widths or shape.widths:
        own = extract(net, width)
        parameters = sum(parameter.numel() for parameter in own.parameters())
        milliseconds = _latency(own, (batch, *images), torch.device(device)) if batch else None
        found.append(Cost(width, multiply_adds(own.to("meta"), images), parameters, milliseconds))
    return found


def multiply_adds(net: nn.Module, image: Sequence[int]) -> int:
    """Multiply-adds of convolutions and linear layers for one image [C, H, W]; `net` lies on the meta device."""
    with FlopCounterMode(display=False) as counter:
        net(torch.empty(1, *image, device="meta"))
    return counter.get_total_flops() // 2


def cost_table(shapes: Sequence[Shape], widths: Sequence[float], batch: int, device: torch.device | str) -> Table:
    """One row a shape and width, with the share of width 1.0."""
    rows = []
    for shape in shapes:
        found = costs(shape, widths, batch, device)
        whole = found[-1] if found[-1].width == 1.0 else costs(shape, [1.0], 0, device)[0]
        for cost in found:
            median, low, high = cost.milliseconds or [math.nan] * 3
            shares = cost.multiply_adds / whole.multiply_adds, cost.parameters / whole.parameters
            numbers = [Spread(100 * share, math.nan) for share in shares]
            times = [Spread(value, math.nan) for value in (median, low, high)]
            rows.append((
                str(shape), f"{cost.width:g}", cost.multiply_adds, numbers[0], cost.parameters, numbers[1], *times
            ))  # fmt: skip
    measured = f"ms for {batch} images, {device}" if batch else "ms, not measured"
    headers = (
        "network", "width", "multiply-adds an image", "multiply-adds, %", "parameters", "parameters, %", measured,
        "lower quartile", "upper quartile",
    )  # fmt: skip
    return Table("Cost of every width, cut out as a network of its own; median time", headers, tuple(rows))


@torch.no_grad()
def _latency(net: nn.Module, shape: Sequence[int], device: torch.device) -> tuple[float, float, float]:
    """Median and quartiles, in milliseconds."""
    net = net.to(device).to(memory_format=torch.channels_last)
    images = torch.randn(*shape, device=device).to(memory_format=torch.channels_last)
    for _ in range(_WARM_UP):
        net(images)
    times, began = [], time.perf_counter()
    while len(times) < _REPETITIONS and (len(times) < 3 or time.perf_counter() - began < _SECONDS):
        _wait_for(device)
        start = time.perf_counter()
        net(images)
        _wait_for(device)
        times.append(1000 * (time.perf_counter() - start))
    low, median, high = torch.tensor(times).quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
    return median, low, high


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
