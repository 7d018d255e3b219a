"""Drop-in modules whose sub-networks share one set of weights, and the conversion of whole networks."""

from .convert import ConversionError, scrollify
from .extract import extract
from .scroll import current_scroll, scroll_to
from .scroll_conv2d import ScrollConv2d
from .scroll_linear import ScrollLinear
from .switchable_batch_norm import SwitchableBatchNorm2d

__all__ = [
    "ConversionError",
    "ScrollConv2d",
    "ScrollLinear",
    "SwitchableBatchNorm2d",
    "current_scroll",
    "extract",
    "scroll_to",
    "scrollify",
]
