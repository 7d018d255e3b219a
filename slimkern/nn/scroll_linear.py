"""A linear layer whose sub-networks share one weight."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from slimkern.nn.scroll_layer import ScrollLayer
from slimkern.ops import backends, scroll_linear
from slimkern.ops.rotation import read, read_bias
from slimkern.width_batch import WidthBatch
from slimkern.widths import Widths


class ScrollLinear(ScrollLayer, nn.Linear):
    """`torch.nn.Linear` at several widths, with a ranking of its features that scrolls.

    A tensor goes through the whole layer, a WidthBatch through the sub-networks of its widths. Takes the arguments of
    `torch.nn.Linear` in the same order; at width 1.0 and scroll 0 it is exactly that.

    Args:
        widths: a number of even widths, or ascending fractions that end in 1.0.
        whole_in: widths don't apply to the input features.
        whole_out: widths don't apply to the output features (the classes of a head, say).

    Shape:
        [..., C_in] to [..., C_out] as a tensor; [..., w*C_in] to [..., w*C_out] for each slab.

    Raises:
        ValueError: features that the widths don't divide.
    """

    _axes = ("in_features", "out_features")

    @classmethod
    def from_parent(
        cls, linear: nn.Linear, widths: int | Sequence[float] | Widths, whole_in: bool = False, whole_out: bool = False
    ) -> ScrollLinear:
        """The same layer at several widths. The parameters are not copied: they are the given layer's own.

        Raises:
            ValueError: as the constructor.
        """
        layer = cls(
            linear.in_features, linear.out_features, linear.bias is not None, device="meta",
            widths=widths, whole_in=whole_in, whole_out=whole_out,
        )  # fmt: skip
        layer.weight, layer.bias = linear.weight, linear.bias
        return layer.train(linear.training)

    def extract(self, width: float) -> nn.Linear:
        """The sub-network of one width as an ordinary `torch.nn.Linear` with weights of its own.

        Raises:
            ValueError: `width` is none of this layer's.
        """
        inputs, outputs = self._sizes_at(width)
        out_offset, in_offset = self._offsets()
        linear = nn.Linear(inputs, outputs, self.bias is not None, device="meta")
        part = read(self.weight.detach(), (outputs, inputs), (out_offset, in_offset)).clone()
        linear.weight = nn.Parameter(part, self.weight.requires_grad)
        if self.bias is not None:
            own = read_bias(self.bias.detach(), outputs, out_offset)
            linear.bias = nn.Parameter(own.clone(), self.bias.requires_grad)
        return linear.train(self.training)

    def forward(self, input: Tensor | WidthBatch) -> Tensor | WidthBatch:
        """Answer a tensor at width 1.0, a WidthBatch at its widths."""
        if isinstance(input, WidthBatch):
            return self._answer(input, -1, self._apply_slabs)
        if self.scroll == 0:
            return super().forward(input)
        return self._apply_slabs([input], [self.out_features])[0]

    def _apply_slabs(self, slabs: Sequence[Tensor], outputs: list[int]) -> list[Tensor]:
        return scroll_linear(slabs, self.weight, self.bias, outputs, *self._offsets())

    def extra_repr(self) -> str:
        """Arguments, widths, scroll and backend."""
        return f"{super().extra_repr()}, {self._slimming_repr(backends.describe('scroll_linear', self.weight.device))}"
