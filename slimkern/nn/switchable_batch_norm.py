"""A batch norm for each width of a slimmable network."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn.modules.module import _has_any_global_hook

from slimkern.nn.deferred import DeferredBatchNorm, DeferredConvolution
from slimkern.nn.deferred_tensor import DeferredTensor, can_be_put_off
from slimkern.nn.synchronised import synchronised_batch_norm
from slimkern.ops import backends, native
from slimkern.ops.batch_norm import BatchNorm
from slimkern.snapshot import ChangedError
from slimkern.width_batch import WidthBatch
from slimkern.widths import Widths

WORTH_DEFERRING = 1 << 20
"""Values of an ordinary tensor from which on a pass over memory costs more than what it takes to leave it out.

Under `torch.compile`, tracing and transforms it is never left out: no stand-in for a tensor may reach their graphs. Nor
is it in inference mode, where tensors don't count their changes in place: one that was changed before the put-off work
is done would go unnoticed. `torch.no_grad` has neither limit.
"""


class SwitchableBatchNorm2d(nn.Module):
    """One batch norm per width (Yu et al. 2019, "Slimmable Neural Networks"), indexed by position: it never scrolls.

    A tensor is normalised by the batch norm of width 1.0, each slab of a WidthBatch by that of its own width. Takes the
    arguments of `torch.nn.BatchNorm2d` in the same order. Parameters and running statistics of all widths lie one after
    the other in flat vectors, narrowest first. The state dict of a plain batch norm loads into every width.

    Args:
        num_features: channels C of width 1.0.
        eps: added to the variance.
        momentum: share of the batch in the running statistics; None for their plain average.
        affine: learn a scale and a shift.
        track_running_stats: keep running statistics for evaluation.
        widths: a number of even widths, or ascending fractions that end in 1.0.
        whole: widths don't apply to the channels: every width normalises all of them.

    Attributes:
        process_group: processes whose batches count as one in training mode, or None for each on its own. They all have
            to call the same batch norms in the same order.
        feeds_relu: whether nothing but a ReLU, or an addition before one, reads the results.
        relus: those of them that are modules.

    Shape:
        [N, C, H, W] as a tensor; [N, w*C, H, W] for each slab.

    Raises:
        ValueError: channels that the widths don't divide.
    """

    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        widths: int | Sequence[float] | Widths = 4,
        whole: bool = False,
    ) -> None:
        super().__init__()
        self.num_features, self.eps, self.momentum, self.whole = num_features, eps, momentum, whole
        self.affine, self.track_running_stats = affine, track_running_stats
        self.widths = Widths.of(widths)
        self.feeds_relu = False
        self.relus: tuple[nn.Module, ...] = ()
        # At most one, in a list as a module takes its time to set an attribute.
        self._untracked: list[DeferredBatchNorm] = []
        self.process_group: ProcessGroup | None = None
        if not whole:
            self.widths.check_divide(num_features, "num_features", ", or pass whole=True if widths don't apply to it")
        self.sizes = tuple(self._size(width) for width in self.widths.fractions)
        self.offsets = tuple(sum(self.sizes[:place]) for place in range(len(self.sizes)))
        total, kind = sum(self.sizes), {"device": device, "dtype": dtype}
        self.weight = nn.Parameter(torch.ones(total, **kind)) if affine else None
        self.bias = nn.Parameter(torch.zeros(total, **kind)) if affine else None
        self.register_buffer("running_mean", torch.zeros(total, **kind) if track_running_stats else None)
        self.register_buffer("running_var", torch.ones(total, **kind) if track_running_stats else None)
        counts = torch.zeros(len(self.sizes), dtype=torch.long, device=device) if track_running_stats else None
        self.register_buffer("num_batches_tracked", counts)

    @classmethod
    def from_parent(
        cls, norm: nn.BatchNorm2d, widths: int | Sequence[float] | Widths, whole: bool = False
    ) -> SwitchableBatchNorm2d:
        """A batch norm per width, each starting from the first channels of the given one.

        Raises:
            ValueError: as the constructor.
        """
        sample = norm.weight if norm.affine else norm.running_mean
        layer = cls(
            norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats,
            None if sample is None else sample.device, None if sample is None else sample.dtype,
            widths=widths, whole=whole,
        )  # fmt: skip
        layer.load_state_dict(norm.state_dict())
        for own, given in zip(layer.parameters(), norm.parameters(), strict=True):
            own.requires_grad_(given.requires_grad)
        return layer.train(norm.training)

    def extract(self, width: float) -> nn.BatchNorm2d:
        """The batch norm of one width as an ordinary `torch.nn.BatchNorm2d` with parameters of its own.

        Raises:
            ValueError: `width` is none of this layer's.
        """
        place = self.widths.index(width)
        norm = nn.BatchNorm2d(
            self.sizes[place], self.eps, self.momentum, self.affine, self.track_running_stats, device="meta"
        )
        own = self._own(place)
        state = {
            name: tensor[place if tensor.dtype == torch.long else own].clone()
            for name, tensor in self.state_dict().items()
        }
        norm.load_state_dict(state, assign=True)
        for mine, given in zip(norm.parameters(), self.parameters(), strict=True):
            mine.requires_grad_(given.requires_grad)
        return norm.train(self.training)

    def forward(self, input: Tensor | WidthBatch) -> Tensor | WidthBatch:
        """Answer a tensor at width 1.0, a WidthBatch at its widths."""
        if self.process_group is not None and self.training:
            return self._normalise_together(input, self.process_group)
        if not isinstance(input, WidthBatch):
            return self._defer_whole(input) if self._serves_deferred(input) else self._normalise_whole(input)
        widths = input.resolve(self.widths)
        places = self.widths.places(widths)
        convolution = input.pending
        if isinstance(convolution, DeferredConvolution) and convolution.grad == torch.is_grad_enabled():
            work = self._put_off(convolution, convolution.out_channels, places)
            return WidthBatch.deferred(work, widths, *input.sources, input)
        slabs = input.slabs * len(widths) if input.shared else input.slabs
        work = self._put_off(slabs, [slab.shape[1] for slab in slabs], places)
        return WidthBatch.deferred(work, widths, input)

    def _put_off(
        self, source: Sequence[Tensor] | DeferredConvolution, channels: Sequence[int], places: list[int]
    ) -> DeferredBatchNorm:
        expected = [self.sizes[place] for place in places]
        if list(channels) != expected:
            raise ValueError(
                f"SwitchableBatchNorm2d of {self.num_features} channels and widths {self.widths.fractions} takes slabs "
                f"of {expected} channels, but was given {list(channels)}"
            )
        self._catch_up()
        uses_batch = self.training or not self.track_running_stats
        mean, variance = (None, None) if uses_batch else (self.running_mean, self.running_var)
        tracks = self.training and self.track_running_stats
        work = DeferredBatchNorm(
            source,
            BatchNorm(self.weight, self.bias, mean, variance, self.eps),
            [self.offsets[place] for place in places],
            partial(self._track, places) if tracks else None,
        )
        if tracks and not torch.compiler.is_compiling():
            self._untracked.append(work)
        return work

    def _catch_up(self) -> None:
        """Track the statistics of a batch whose result nobody has asked for yet, so that they come in order."""
        if not self._untracked:
            return
        work = self._untracked.pop()
        try:
            work((), False)
        except ChangedError as error:
            warnings.warn(f"running statistics miss a batch whose result was never used: {error}", stacklevel=3)

    def _serves_deferred(self, images: Tensor) -> bool:
        """Whether to leave a ReLU to the kernel: one has been seen to follow, and torch offers no such kernel."""
        return (
            self.feeds_relu
            and not any(map(_has_hooks, (self, *self.relus)))
            and can_be_put_off(images)
            and images.numel() >= WORTH_DEFERRING
            and backends.choose("switchable_batch_norm", images.device) == "native"
            and native.takes_batch_norm([images], [self.weight, self.bias, self.running_mean, self.running_var], [])
        )

    def _defer_whole(self, images: Tensor) -> Tensor:
        work = self._put_off([images], [images.shape[1]], [len(self.sizes) - 1])
        return DeferredTensor.of(WidthBatch.deferred(work, (1.0,)), images)

    def _normalise_whole(self, images: Tensor) -> Tensor:
        if images.dim() < 2 or images.shape[1] != self.num_features:
            raise ValueError(
                f"SwitchableBatchNorm2d of {self.num_features} channels takes a tensor of as many, but was given shape "
                f"{tuple(images.shape)}"
            )
        self._catch_up()
        own = self._own(len(self.sizes) - 1)
        weight, bias = (None if vector is None else vector[own] for vector in (self.weight, self.bias))
        mean, variance = (None if vector is None else vector[own] for vector in (self.running_mean, self.running_var))
        share = self.momentum
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked[-1] += 1
            share = 1.0 / float(self.num_batches_tracked[-1]) if share is None else share
        uses_batch = self.training or not self.track_running_stats
        if uses_batch and not self.training:
            mean, variance = None, None
        return F.batch_norm(images, mean, variance, weight, bias, uses_batch, share or 0.0, self.eps)

    def _normalise_together(self, input: Tensor | WidthBatch, group: ProcessGroup) -> Tensor | WidthBatch:
        widths = input.resolve(self.widths) if isinstance(input, WidthBatch) else self.widths.fractions[-1:]
        places = self.widths.places(widths)
        slabs = input.slabs if isinstance(input, WidthBatch) else (input,)
        if isinstance(input, WidthBatch) and input.shared:
            slabs *= len(widths)
        self._catch_up()
        offsets = [self.offsets[place] for place in places]
        results, *statistics = synchronised_batch_norm(slabs, self.weight, self.bias, offsets, self.eps, group)
        if self.track_running_stats:
            self._track(places, *statistics)
        return WidthBatch(results, widths) if isinstance(input, WidthBatch) else results[0]

    def train(self, mode: bool = True) -> SwitchableBatchNorm2d:
        """As `torch.nn.Module.train`."""
        self._catch_up()
        return super().train(mode)

    def _track(self, places: list[int], mean: Tensor, variance: Tensor, count: int | Tensor) -> None:
        """Move the running statistics of the widths at `places` towards the batch's, of `count` values a channel."""
        running_mean, running_var, counts = self.running_mean, self.running_var, self.num_batches_tracked
        assert running_mean is not None and running_var is not None and counts is not None
        self._untracked.clear()
        unbiased = variance * (count / (count - 1))
        if self.momentum is not None and len(places) == len(self.sizes):  # no need to cut anything
            counts.add_(1)
            running_mean.lerp_(mean.to(running_mean.dtype), self.momentum)
            running_var.lerp_(unbiased.to(running_var.dtype), self.momentum)
            return
        adjoining = self.momentum is not None and places == list(range(places[0], places[-1] + 1))
        start = 0
        for run in [places] if adjoining else [[place] for place in places]:
            counts[run[0] : run[-1] + 1].add_(1)
            share = counts[run[0]].to(running_mean.dtype).reciprocal() if self.momentum is None else self.momentum
            own = slice(self.offsets[run[0]], self._own(run[-1]).stop)
            here = slice(start, start + own.stop - own.start)
            running_mean[own].lerp_(mean[here].to(running_mean.dtype), share)
            running_var[own].lerp_(unbiased[here].to(running_var.dtype), share)
            start = here.stop

    def reset_running_stats(self) -> None:
        """Forget the running statistics of every width."""
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            self.running_mean.zero_()
            self.running_var.fill_(1)
            self.num_batches_tracked.zero_()

    def reset_parameters(self) -> None:
        """Start again: scale 1, shift 0, no running statistics."""
        self.reset_running_stats()
        if self.weight is not None and self.bias is not None:
            nn.init.ones_(self.weight)
            nn.init.zeros_(self.bias)

    def __getstate__(self) -> dict[str, Any]:
        self._catch_up()
        return self.__dict__ | {"_untracked": []}

    def _save_to_state_dict(self, *arguments: Any) -> None:
        self._catch_up()
        super()._save_to_state_dict(*arguments)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        for work in self._untracked:
            work.track = None  # what is loaded takes the place of what it would track
        self._untracked.clear()
        for name, own in (*self._parameters.items(), *self._buffers.items()):
            given = state_dict.get(prefix + name)
            if given is None or own is None or given.shape == own.shape:
                continue
            if given.dim() == 0:
                state_dict[prefix + name] = given.repeat(len(self.sizes))
            elif given.shape[0] == self.num_features:
                state_dict[prefix + name] = torch.cat([given[:size] for size in self.sizes])
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def extra_repr(self) -> str:
        """Arguments, widths and backend."""
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"track_running_stats={self.track_running_stats}, widths={self.widths.fractions}{', whole' * self.whole}, "
            f"backend={backends.describe('switchable_batch_norm', self._device())}"
        )

    def _size(self, width: float) -> int:
        return self.num_features if self.whole else self.widths.channels(self.num_features, width)

    def _own(self, place: int) -> slice:
        return slice(self.offsets[place], self.offsets[place] + self.sizes[place])

    def _device(self) -> torch.device:
        return next((t.device for t in (self.weight, self.running_mean) if t is not None), torch.device("cpu"))


def _has_hooks(module: nn.Module) -> bool:
    """Whether somebody would look at what comes out of a module, or at the gradients that go in."""
    own = (module._forward_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(own) or bool(_has_any_global_hook())
