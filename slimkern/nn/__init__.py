"""Drop-in modules whose sub-networks share one set of weights, and the conversion of whole networks."""

from slimkern.nn.convert import ConversionError, scrollify
from slimkern.nn.extract import extract
from slimkern.nn.ragged_head import cross_entropies
from slimkern.nn.recomputed import recomputed
from slimkern.nn.scroll import current_scroll, scroll_to, set_scroll
from slimkern.nn.scroll_conv2d import ScrollConv2d
from slimkern.nn.scroll_linear import ScrollLinear
from slimkern.nn.switchable_batch_norm import SwitchableBatchNorm2d

__all__ = [
    "ConversionError",
    "ScrollConv2d",
    "ScrollLinear",
    "SwitchableBatchNorm2d",
    "cross_entropies",
    "current_scroll",
    "extract",
    "recomputed",
    "scroll_to",
    "scrollify",
    "set_scroll",
]
