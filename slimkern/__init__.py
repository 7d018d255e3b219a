"""slimkern trains slimmable and scrolling networks: all sub-networks of one weight in one pass."""

from slimkern.captured_step import capture
from slimkern.nn import (
    ConversionError,
    ScrollConv2d,
    ScrollLinear,
    SwitchableBatchNorm2d,
    cross_entropies,
    current_scroll,
    extract,
    recomputed,
    scroll_to,
    scrollify,
    set_scroll,
)
from slimkern.width_batch import WidthBatch, at_width, at_widths, every_width
from slimkern.widths import Widths

__version__ = "0.1.0"

__all__ = [
    "ConversionError",
    "ScrollConv2d",
    "ScrollLinear",
    "SwitchableBatchNorm2d",
    "WidthBatch",
    "Widths",
    "at_width",
    "at_widths",
    "capture",
    "cross_entropies",
    "current_scroll",
    "every_width",
    "extract",
    "recomputed",
    "scroll_to",
    "scrollify",
    "set_scroll",
]
