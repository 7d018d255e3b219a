"""How kernels may be cut and staged: short lists to choose from, with the resources that each may take.

The budgets are of kernels compiled for compute capability 9.0, with four slabs, 3x3 taps and, where a kernel can note
them, moments; a test compiles every configuration and holds it to them. Launches are planned by what the compiled code
really takes, and by a budget only where no driver tells that.
"""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024

IN_PLACE, PACKED, TORCH, STREAMS = "in place", "packed", "torch", "torch on streams"
"""How a pass may be served: by one launch that reads the stored weight, or a copy packed for the slabs (a weight's
gradient is written in place, and a stem's weight is too small to pack), or slab by slab in plain torch, one after the
other or, in a CUDA graph, as branches of it."""

SLAB_BY_SLAB = (TORCH, STREAMS)


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
        boxes: whether operands are loaded as boxes by the tensor memory accelerator.
    """

    pixels: int
    channels: int
    depth: int
    warps: int
    stages: int
    registers: int
    shared: int
    boxes: bool = False

    @property
    def name(self) -> str:
        """What the table of choices calls it."""
        size = f"{self.pixels}x{self.channels}x{self.depth} warps {self.warps} stages {self.stages}"
        return f"{size}{' boxes' * self.boxes}"


@dataclass(frozen=True)
class ReductionConfiguration:
    """Of the kernels behind the weight's gradient. A tile is `taps` x `inputs` columns by `outputs`.

    Attributes:
        taps: of a tile.
        inputs: channels of a tile; several taps make up for narrow ones.
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

    @property
    def name(self) -> str:
        """What the table of choices calls it."""
        size = f"{self.taps}x{self.inputs}x{self.outputs}x{self.pixels} warps {self.warps} stages {self.stages}"
        return f"{size} waves {self.waves}{' boxes' * self.boxes}"


GATHER = {
    "half": (
        Configuration(128, 128, 64, 8, 3, 255, 98 * KIB, boxes=True),
        Configuration(128, 64, 64, 4, 3, 200, 74 * KIB, boxes=True),
        Configuration(128, 16, 16, 4, 4, 88, 20 * KIB, boxes=True),
        Configuration(128, 128, 64, 8, 3, 216, 98 * KIB),
        Configuration(128, 64, 64, 4, 3, 208, 74 * KIB),
        Configuration(64, 128, 64, 4, 3, 224, 74 * KIB),
        Configuration(64, 64, 64, 4, 4, 120, 66 * KIB),
        Configuration(128, 32, 32, 4, 4, 120, 42 * KIB),
        Configuration(128, 16, 16, 4, 4, 80, 20 * KIB),
    ),
    "tf32": (
        Configuration(128, 64, 32, 4, 3, 255, 74 * KIB, boxes=True),
        Configuration(128, 64, 32, 4, 3, 248, 74 * KIB),
        Configuration(64, 64, 32, 4, 3, 160, 50 * KIB),
        Configuration(128, 16, 16, 4, 4, 96, 38 * KIB),
    ),
    "ieee": (
        Configuration(64, 64, 16, 4, 3, 208, 18 * KIB),
        Configuration(64, 16, 16, 4, 3, 104, 12 * KIB),
    ),
}
"""Forward pass and input gradient, by how products are formed: of 16-bit floats, as TF32, of float32 exactly."""

STEM = {
    "half": (Configuration(64, 64, 32, 4, 1, 112, 10 * KIB),),
    "tf32": (Configuration(64, 64, 32, 4, 1, 112, 18 * KIB),),
    "ieee": (Configuration(64, 64, 32, 4, 1, 160, 18 * KIB),),
}
"""Forward pass of slabs that share an input of a few channels, likewise."""

REDUCTION = {
    "half": (
        ReductionConfiguration(1, 128, 256, 64, 8, 3, 184, 130 * KIB, boxes=True),
        ReductionConfiguration(1, 128, 128, 64, 8, 4, 120, 114 * KIB, boxes=True),
        ReductionConfiguration(1, 64, 128, 64, 4, 4, 112, 90 * KIB, boxes=True),
        ReductionConfiguration(1, 64, 64, 128, 4, 3, 96, 82 * KIB, boxes=True),
        ReductionConfiguration(1, 128, 128, 64, 8, 3, 104, 98 * KIB),
        ReductionConfiguration(1, 64, 64, 64, 4, 4, 64, 66 * KIB),
        ReductionConfiguration(2, 64, 64, 64, 4, 3, 104, 74 * KIB),
        ReductionConfiguration(4, 32, 64, 64, 4, 3, 104, 74 * KIB),
        ReductionConfiguration(4, 16, 64, 64, 4, 3, 72, 50 * KIB),
        ReductionConfiguration(16, 4, 64, 64, 4, 2, 152, 26 * KIB),
    ),
    "tf32": (
        ReductionConfiguration(1, 64, 128, 32, 4, 3, 128, 66 * KIB, boxes=True),
        ReductionConfiguration(1, 64, 64, 32, 4, 3, 96, 50 * KIB),
        ReductionConfiguration(4, 16, 64, 32, 4, 3, 96, 50 * KIB),
        ReductionConfiguration(16, 4, 64, 32, 4, 2, 120, 34 * KIB),
    ),
    "ieee": (
        ReductionConfiguration(1, 64, 64, 16, 4, 3, 80, 18 * KIB),
        ReductionConfiguration(4, 16, 64, 16, 4, 2, 96, 18 * KIB),
        ReductionConfiguration(16, 4, 64, 16, 4, 2, 160, 18 * KIB),
    ),
}
"""Weight gradient, likewise."""

FAMILIES = {"gather": GATHER, "stem": STEM, "reduction": REDUCTION}
