"""How a convolution's kernel moves over an image."""

from __future__ import annotations

from typing import NamedTuple

Pair = tuple[int, int]


class Geometry(NamedTuple):
    """How a kernel moves over an image, height then width; as in `torch.nn.functional.conv2d`."""

    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)

    def result(self, image: Pair) -> Pair:
        """Height and width of what an image of this size is convolved to."""
        height, width = (
            (image[axis] + 2 * self.padding[axis] - self.dilation[axis] * (self.kernel[axis] - 1) - 1)
            // self.stride[axis]
            + 1
            for axis in (0, 1)
        )
        return height, width
