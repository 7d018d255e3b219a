"""One pass of one layer, as far as it decides how fast a configuration is; and a guess of that."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from math import ceil, gcd

from slimkern.kernels.configurations import FAMILIES, Configuration, ReductionConfiguration
from slimkern.kernels.geometry import Geometry, Pair

AnyConfiguration = Configuration | ReductionConfiguration

FAMILY_OF = {"forward": "gather", "input gradient": "gather", "stem": "stem", "weight gradient": "reduction"}
"""The passes, and which list each chooses from; a stem is the forward pass of slabs that share a few input channels."""

PROCESSORS = 132
PRODUCTS = {"half": 3000, "tf32": 1500, "ieee": 250}
BYTES = 42
POINTERS = 1.3
"""Of an H200: multiprocessors; multiply-adds and bytes from the second-level cache for each in a nanosecond. What
loading by pointers costs beside boxes is a guess. All of it only says which configuration is tried first."""


def turn(offset: int, channels: int) -> int:
    """How long the stretches are that a rotated axis can be cut into without one that wraps around; 0 if unrotated."""
    return gcd(offset, channels) if offset else 0


@dataclass(frozen=True)
class Problem:
    """A pass, the same at every scroll whose offsets can be read by the same boxes.

    Attributes:
        operation: forward, input gradient, weight gradient or stem.
        kind: bfloat16, float16, tf32 or ieee; the last two are float32.
        batch: images.
        image: height and width of the inputs.
        inputs: channels that each slab reads.
        outputs: channels that each slab gives.
        geometry: of the convolution.
        turns: of the weight's output and input axis, see `turn`.
        side_by_side: whether the weight's input channels lie side by side in memory.
    """

    operation: str
    kind: str
    batch: int
    image: Pair
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    geometry: Geometry
    turns: Pair = (0, 0)
    side_by_side: bool = True

    @cached_property
    def key(self) -> str:
        """What the table of choices calls it."""
        slabs = " ".join(f"{inputs}>{outputs}" for inputs, outputs in zip(self.inputs, self.outputs, strict=True))
        pairs = zip(self.geometry._fields, self.geometry, strict=True)
        geometry = " ".join(f"{name} {height}x{width}" for name, (height, width) in pairs)
        turned = f" turned {self.turns[0]}x{self.turns[1]}" if any(self.turns) else ""
        lies = turned + " apart" * (not self.side_by_side)
        return f"{self.operation} {self.kind} {self.batch}x{self.image[0]}x{self.image[1]} {slabs} {geometry}{lies}"

    def candidates(self, boxes: bool, shared: int) -> list[AnyConfiguration]:
        """Configurations that a device can take, what should be the fastest first.

        Args:
            boxes: whether it has a tensor memory accelerator.
            shared: bytes of shared memory that a program may use.
        """
        configurations: Iterable[AnyConfiguration] = FAMILIES[FAMILY_OF[self.operation]][self._list]
        fitting = (own for own in configurations if own.shared <= shared and (boxes or not own.boxes))
        return sorted(fitting, key=self.estimate)

    def estimate(self, configuration: AnyConfiguration) -> float:
        """Nanoseconds that a pass should take, from its products, its loads and how well tiles fill."""
        size = 4 if self._list in ("tf32", "ieee") else 2
        height, width = self.geometry.result(self.image)
        pixels, taps = self.batch * height * width, self.geometry.kernel[0] * self.geometry.kernel[1]
        inputs, outputs = self.inputs, self.outputs
        if isinstance(configuration, ReductionConfiguration):
            columns, rows, depth = (
                configuration.taps * configuration.inputs,
                configuration.outputs,
                configuration.pixels,
            )
            steps = [
                ceil(taps / configuration.taps) * ceil(read / configuration.inputs) * ceil(given / rows)
                * ceil(pixels / depth)
                for read, given in zip(inputs, outputs, strict=True)
            ]  # fmt: skip
            longest = sum(steps) / PROCESSORS / configuration.waves
        else:
            if self.operation == "input gradient":
                inputs, outputs = outputs, inputs
            columns, rows, depth = configuration.pixels, configuration.channels, configuration.depth
            products = [ceil(read / depth) * taps for read in inputs]
            if self.operation == "stem":
                products = [ceil(read * taps / depth) for read in inputs[:1]]
            tiles = [ceil(pixels / columns) * ceil(given / rows) for given in outputs]
            steps = [own * count for own, count in zip(products, tiles, strict=False)]
            longest = max(products)
        step = max(columns * rows * depth / PRODUCTS[self._list], (columns + rows) * depth * size / BYTES)
        return (sum(steps) / PROCESSORS + longest) * step * (1 if configuration.boxes else POINTERS)

    @property
    def products(self) -> str:
        """How products of float32 are formed, as kernels take it; those of shorter dtypes are exact either way."""
        return "ieee" if self.kind == "ieee" else "tf32"

    @property
    def _list(self) -> str:
        return self.kind if self.kind in ("tf32", "ieee") else "half"
