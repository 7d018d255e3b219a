"""The losses of all widths straight from the last maps of a backbone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from slimkern.nn.scroll_linear import ScrollLinear
from slimkern.ops import ragged_head
from slimkern.width_batch import WidthBatch


def cross_entropies(
    maps: WidthBatch, heads: Sequence[ScrollLinear], labels: Tensor, classes: range | None = None
) -> Tensor:
    """Average maps over the image, classify them by heads side by side, and take the mean cross-entropy of each width.

    One operator, forward and backward, for what would be pooling, heads and losses of every width in turn. Heads none
    of whose classes compete are left out.

    Args:
        maps: [N, w*C, H, W], or averaged already [N, w*C], at each width.
        heads: from C features to whole classes, at one scroll.
        labels: int64 [N], counted over the classes of all heads, each within `classes`.
        classes: consecutive classes that compete; all by default.

    Returns:
        One loss a width [S] in float32, or float64 for such maps.

    Raises:
        ValueError: no head for these classes, heads at different scrolls or of sliced classes, maps that they don't
            take, or what `slimkern.ops.ragged_head` refuses.
    """
    stops = list(accumulate(head.out_features for head in heads))
    wanted = range(stops[-1] if stops else 0) if classes is None else classes
    places = [
        place
        for place, (head, stop) in enumerate(zip(heads, stops, strict=True))
        if stop > wanted.start and stop - head.out_features < wanted.stop
    ]
    chosen = [heads[place] for place in places]
    if len({head.scroll for head in chosen}) != 1:
        raise ValueError(
            f"cross_entropies over {wanted} of heads of {[head.out_features for head in heads]} classes at scrolls "
            f"{[head.scroll for head in heads]}: heads must have these classes, and be at one scroll"
        )
    if not all(head.whole_out for head in chosen):
        raise ValueError("cross_entropies takes heads with whole_out=True: these have fewer classes at smaller widths")
    widths, _ = chosen[0]._accept(maps, 1)
    slabs = maps.slabs * len(widths) if maps.shared else maps.slabs
    start = stops[places[0]] - chosen[0].out_features
    _, in_offset = chosen[0]._offsets()
    losses, _ = ragged_head(
        slabs, _joined([head.weight for head in chosen]), _biases(chosen), labels - start, in_offset,
        wanted.start - start, wanted.stop - start,
    )  # fmt: skip
    return losses


def _biases(heads: Sequence[ScrollLinear]) -> Tensor | None:
    if all(head.bias is None for head in heads):
        return None
    return _joined([head.weight.new_zeros(head.out_features) if head.bias is None else head.bias for head in heads])


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))
