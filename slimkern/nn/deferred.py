"""Convolutions and batch norms that are put off until what follows them is known.

So a batch norm can join the convolution before it, and an addition and a ReLU the batch norm: one operator, in one pass
over memory. A batch norm's result that is used twice is computed twice, but its statistics are tracked once; a
convolution that is read twice is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from slimkern.ops import scroll_conv2d, scroll_conv2d_batch_norm, switchable_batch_norm
from slimkern.ops.batch_norm import BatchNorm
from slimkern.ops.convolution import Convolution
from slimkern.snapshot import Snapshot, in_inference_mode

Track = Callable[[Tensor, Tensor, int], None]
"""Told the batch's mean, its biased variance, and how many values a channel they are of."""


@dataclass
class DeferredConvolution:
    """A call of `scroll_conv2d`, with the gradient mode that it was made in.

    Attributes:
        results: what it gave, where somebody else may ask for it.
        read: whether a batch norm reads it.
    """

    slabs: Sequence[Tensor]
    convolution: Convolution
    bias: Tensor | None
    out_channels: list[int]
    grad: bool = field(default_factory=torch.is_grad_enabled)
    results: Sequence[Tensor] | None = field(default=None, init=False)
    read: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._snapshot = Snapshot([*self.slabs, self.convolution.weight, *([] if self.bias is None else [self.bias])])

    def __call__(self, residuals: Sequence[Tensor], relu: bool) -> list[Tensor]:
        """Convolve, add `residuals` (one a slab, or none), and apply a ReLU if asked for."""
        self.refuse_changes()
        conv = self.convolution
        with _as_called(self.grad, self.slabs[0]):
            if self.results is not None:
                return _finished(self.results, residuals, relu)
            results = scroll_conv2d(
                self.slabs, conv.weight, self.bias, self.out_channels, conv.out_offset, conv.in_offset, conv.stride,
                conv.padding, conv.dilation, conv.groups,
            )  # fmt: skip
            if self.read:
                self.keep(results)
            return _finished(results, residuals, relu, in_place=not self.read)

    def keep(self, results: Sequence[Tensor]) -> None:
        """Remember what it gave."""
        self.results, self._snapshot = results, Snapshot(results)

    def refuse_changes(self) -> None:
        """Raise if the results would no longer be those of the call.

        Raises:
            RuntimeError: what they are computed from was changed in place, or they themselves were.
        """
        self._snapshot.refuse_changes("the input, a weight or a result of a ScrollConv2d")

    def shapes(self) -> list[list[int]]:
        """The shapes of the results."""
        return self.convolution.output_shapes(self.slabs, self.out_channels)


@dataclass
class DeferredBatchNorm:
    """A call of `switchable_batch_norm` on slabs or on a convolution that is itself put off."""

    source: Sequence[Tensor] | DeferredConvolution
    norm: BatchNorm
    offsets: list[int]
    track: Track | None
    grad: bool = field(default_factory=torch.is_grad_enabled)
    snapshot: Snapshot = field(init=False)

    def __post_init__(self) -> None:
        slabs: Sequence[Tensor] = ()
        if isinstance(self.source, DeferredConvolution):
            self.source.read = True
        else:
            slabs = self.source
        self.snapshot = Snapshot([*slabs, *(vector for vector in self.norm if isinstance(vector, Tensor))])

    def __call__(self, residuals: Sequence[Tensor], relu: bool) -> list[Tensor]:
        """Normalise, add `residuals` (one a slab, or none), and apply a ReLU if asked for."""
        self.snapshot.refuse_changes("the input or a weight of a SwitchableBatchNorm2d")
        source = self.source
        if isinstance(source, DeferredConvolution):
            source.refuse_changes()
            source = source.results or source
        joins = self._can_add(residuals)
        extras = (residuals, relu) if joins else ((), False)
        slabs = source.slabs if isinstance(source, DeferredConvolution) else source
        with _as_called(self.grad, slabs[0]):
            if isinstance(source, DeferredConvolution):
                results, convolved, mean, variance = scroll_conv2d_batch_norm(
                    source.slabs, source.convolution, source.bias, source.out_channels, self.norm, self.offsets, *extras
                )
                source.keep(convolved)
            else:
                results, mean, variance = switchable_batch_norm(
                    source, self.norm.weight, self.norm.bias, self.offsets, *self.norm[2:], *extras
                )
            if not joins:
                results = _finished(results, residuals, relu, in_place=True)
        if self.track is not None:
            track, self.track = self.track, None
            track(mean, variance, results[0].numel() // results[0].shape[1])
        return results

    def _can_add(self, residuals: Sequence[Tensor]) -> bool:
        """Whether the operator can: there are none, or they are of the shapes and the dtype of its results."""
        if not residuals:
            return True
        source = self.source
        if isinstance(source, DeferredConvolution):
            shapes, dtype = source.shapes(), source.slabs[0].dtype
        else:
            shapes, dtype = [list(slab.shape) for slab in source], source[0].dtype
        return [list(residual.shape) for residual in residuals] == shapes and all(r.dtype == dtype for r in residuals)


def _as_called(grad: bool, like: Tensor) -> AbstractContextManager[None]:
    """The modes of the call, whatever they are when its work is done; autocast has been applied by then."""
    is_cast = torch.is_autocast_enabled(like.device.type)
    if grad == torch.is_grad_enabled() and not is_cast and not in_inference_mode():
        return _AS_IT_IS  # nearly always
    return _in_modes(grad, like.device.type)


_AS_IT_IS = nullcontext()


@contextmanager
def _in_modes(grad: bool, device: str) -> Iterator[None]:
    outside = torch.inference_mode(False) if in_inference_mode() else nullcontext()
    uncast = torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()
    with outside, torch.set_grad_enabled(grad), uncast:
        yield


def _finished(
    results: Sequence[Tensor], residuals: Sequence[Tensor], relu: bool, in_place: bool = False
) -> list[Tensor]:
    if residuals:
        results = [result + residual for result, residual in zip(results, residuals, strict=True)]
    rectify = torch.relu_ if in_place or residuals else torch.relu
    return [rectify(result) for result in results] if relu else list(results)
