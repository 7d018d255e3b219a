"""What scrolling layers have in common: widths, whole axes, the scroll, and how they answer a WidthBatch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from slimkern.width_batch import WidthBatch
from slimkern.widths import Widths

Apply = Callable[[Sequence[Tensor], list[int]], list[Tensor]]


class ScrollLayer(nn.Module):
    """Mixin of the drop-in layers whose weight is shared by nested sub-networks and read through rotated indices.

    Attributes:
        widths: the widths that this layer can be seen at.
        whole_in: widths don't apply to the input axis (image channels, say).
        whole_out: widths don't apply to the output axis (classes, say).
        scroll: how far the ranking has been rolled, in blocks. Saved in the metadata of the state dict, so that its
            keys stay those of the parent class. `torch.save` keeps the metadata, but a plain copy such as
            `{name: tensor.cpu() ...}` loses it: call `scroll_to` after loading one.
    """

    widths: Widths
    whole_in: bool
    whole_out: bool
    scroll: int
    _axes: tuple[str, str]
    """Names of the parent's attributes that hold the sizes of the input and of the output axis."""

    def __init__(
        self,
        *args: Any,
        widths: int | Sequence[float] | Widths = 4,
        whole_in: bool = False,
        whole_out: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.widths, self.whole_in, self.whole_out, self.scroll = Widths.of(widths), whole_in, whole_out, 0
        for name, flag in zip(self._axes, ("whole_in", "whole_out"), strict=True):
            if not getattr(self, flag):
                remedy = f", or pass {flag}=True if widths don't apply to this axis"
                self.widths.check_divide(getattr(self, name), name, remedy)

    def _sizes(self) -> tuple[int, int]:
        """Channels of the whole input and output axis."""
        inputs, outputs = self._axes
        return getattr(self, inputs), getattr(self, outputs)

    def _sizes_at(self, width: float) -> tuple[int, int]:
        """Channels of the input and the output axis of one sub-network."""
        inputs, outputs = self._sizes()
        return self._counts(inputs, self.whole_in, [width])[0], self._counts(outputs, self.whole_out, [width])[0]

    def _offsets(self) -> tuple[int, int]:
        """Stored channels that output position 0 and input position 0 are."""
        inputs, outputs = self._sizes()
        return (
            0 if self.whole_out else self.widths.offset(outputs, self.scroll),
            0 if self.whole_in else self.widths.offset(inputs, self.scroll),
        )

    def _counts(self, total: int, whole: bool, widths: Sequence[float]) -> list[int]:
        return [total] * len(widths) if whole else self.widths.counts(total, widths)

    def _answer(self, batch: WidthBatch, axis: int, apply: Apply) -> WidthBatch:
        """Answer a batch in kind, at its widths; `axis` is that of its channels."""
        inputs, outputs = self._sizes()
        if batch.shared and self.whole_in and self.whole_out:
            self._check_slabs(batch.slabs, [inputs], axis)
            return WidthBatch(apply(batch.slabs, [outputs]), batch.widths, shared=True)
        widths, counts = self._accept(batch, axis)
        return WidthBatch(apply(batch.slabs, counts), widths)

    def _accept(self, batch: WidthBatch, axis: int) -> tuple[tuple[float, ...], list[int]]:
        """The widths that a batch is answered at, and the channels that each gives."""
        inputs, outputs = self._sizes()
        widths = batch.resolve(self.widths)
        expected = self._counts(inputs, self.whole_in, widths)
        self._check_slabs(batch.slabs * len(widths) if batch.shared else batch.slabs, expected, axis)
        return widths, self._counts(outputs, self.whole_out, widths)

    def _check_slabs(self, slabs: Sequence[Tensor], expected: list[int], axis: int) -> None:
        given = [slab.shape[axis] for slab in slabs]
        if given != expected:
            kind = "whole" if self.whole_in else "sliced"
            raise ValueError(
                f"{type(self).__name__} with a {kind} input axis and widths {self.widths.fractions} takes slabs of "
                f"{expected} channels, but was given {given}"
            )

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if hasattr(destination, "_metadata"):
            destination._metadata[prefix[:-1]]["scroll"] = self.scroll

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: dict, *rest: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)
        self.scroll = int(local_metadata.get("scroll", self.scroll)) % self.widths.blocks

    def _slimming_repr(self, backend: str) -> str:
        whole = ", ".join(name for name in ("whole_in", "whole_out") if getattr(self, name))
        return f"widths={self.widths.fractions}, scroll={self.scroll}{', ' * bool(whole)}{whole}, backend={backend}"
