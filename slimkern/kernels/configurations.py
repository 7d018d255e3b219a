"""How kernels may be cut and staged: the short lists that tuning chooses from, with the resources each was found to need.

The budgets are of bfloat16 (lists named `half`) or float32 kernels on compute capability 9.0; tests compile every
configuration and hold it to them. A configuration that needs more shared memory than a device has is left out there.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Configuration:
    """Of the kernel behind the forward pass and the input gradient.

    Attributes:
        pixels: result pixels of a tile.
        channels: result channels of a tile.
        depth: channels that are summed at a time.
        warps: of a program.
        stages: of the pipeline that loads operands.
        registers: budget a thread.
        shared: budget of shared memory, in bytes.
    """

    pixels: int
    channels: int
    depth: int
    warps: int
    stages: int
    registers: int
    shared: int


@dataclass(frozen=True)
class ReductionConfiguration:
    """Of the kernels behind the weight's gradient. A tile is `taps` x `inputs` columns by `outputs`.

    Attributes:
        taps: of a tile.
        inputs: channels of a tile; as narrow as a block where blocks are narrow, so that no slab fills it by half.
        outputs: channels of a tile.
        pixels: that are summed at a time.
        warps: of a program.
        stages: of the pipeline that loads operands.
        registers: budget a thread.
        shared: budget of shared memory, in bytes.
        boxes: whether pixels are loaded as boxes by the tensor memory accelerator, a tap at a time.
        waves: items for each program that a device holds at once.
    """

    taps: int
    inputs: int
    outputs: int
    pixels: int
    warps: int
    stages: int
    registers: int
    shared: int
    boxes: bool = False
    waves: int = 3
