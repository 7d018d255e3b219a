"""Functions that several kernels call on the device."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def pick(pointers, index):
    """The pointer at `index` of a tuple. Each is selected by a comparison, so that alignment and type stay known."""
    chosen = pointers[0]
    for place in tl.static_range(1, len(pointers)):
        chosen = tl.where(index == place, pointers[place], chosen)
    return chosen


@triton.jit
def rotated(positions, offset, channels):
    """Channels that positions are: (position + offset) mod channels, for offsets in [0, channels).

    Positions at or beyond `channels` may come out beyond it too; whoever loads must mask them.
    """
    shifted = positions + offset
    return tl.where(shifted >= channels, shifted - channels, shifted)
