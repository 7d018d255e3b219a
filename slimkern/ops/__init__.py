"""The operators: each computes something for all slabs of a batch at once.

Every file holds one operator: its plain-torch reference, which is the specification, its registration with
`torch.library` (schema, fake, autograd) and the checked public function.
"""

from slimkern.ops.branch_conv2d import branch_conv2d
from slimkern.ops.branch_linear import branch_linear
from slimkern.ops.pack_weights import Part, pack_weights
from slimkern.ops.ragged_head import ragged_head
from slimkern.ops.scroll_conv2d import scroll_conv2d
from slimkern.ops.scroll_conv2d_batch_norm import scroll_conv2d_batch_norm
from slimkern.ops.scroll_linear import scroll_linear
from slimkern.ops.switchable_batch_norm import switchable_batch_norm

__all__ = [
    "Part",
    "branch_conv2d",
    "branch_linear",
    "pack_weights",
    "ragged_head",
    "scroll_conv2d",
    "scroll_conv2d_batch_norm",
    "scroll_linear",
    "switchable_batch_norm",
]
