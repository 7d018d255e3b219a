"""Slabs that travel together through a network, and the functions that may act on them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from slimkern.slabwise import ALIASING, SLABWISE, UnsoundError, check_partner, check_result, refusal
from slimkern.snapshot import Snapshot, in_inference_mode
from slimkern.widths import Widths, same_width

Finish = Callable[[Sequence[Tensor], bool], Sequence[Tensor]]
"""Computes slabs that were put off, with residuals to add (one a slab, or none) and a ReLU to apply, if any."""


class WidthBatch:
    """One batch of data as several sub-networks see it: a slab for each width.

    Not a tensor. It answers the functions of torch in `SLABWISE` slab by slab, and layers of `slimkern.nn` at all its
    widths at once. Iterating gives (width, slab) pairs. Before the first sliced layer the slabs are one shared tensor.

    A layer may put its work off (`WidthBatch.deferred`), so that an addition and a ReLU that follow it are done in the
    same pass over memory. Asking for the slabs in any way does the work.

    Attributes:
        widths: the widths that the slabs belong to, ascending; None for "every width of the network that reads it".
        shared: whether the sub-networks still see the same tensor.
        sources: the batches that put-off work reads.
    """

    def __init__(self, slabs: Sequence[Tensor], widths: Sequence[float] | None, shared: bool = False) -> None:
        if not shared and (widths is None or len(slabs) != len(widths)):
            raise ValueError(f"{len(slabs)} slabs need as many widths, not {widths}")
        self.widths = None if widths is None else tuple(widths)
        self.shared = shared
        self._slabs: tuple[Tensor, ...] = tuple(slabs)
        self._finish: Finish | None = None
        self._residuals: tuple[Tensor, ...] = ()
        self._snapshot: Snapshot | None = None
        self.sources: tuple[WidthBatch, ...] = ()
        self._readers: list[weakref.ref[WidthBatch]] = []

    @classmethod
    def deferred(cls, finish: Finish, widths: Sequence[float], *sources: WidthBatch) -> WidthBatch:
        """A batch whose slabs `finish` will compute, in the order of `widths`, when they are first asked for.

        If it computes them from the slabs of `sources`, that is at the latest when those are about to change in place.
        """
        batch = cls((), (), shared=False)
        batch.widths, batch._finish, batch.sources = tuple(widths), finish, sources
        for source in sources:
            source._readers.append(weakref.ref(batch))
        if in_inference_mode():
            batch._settle(relu=False)  # changes in place would go unnoticed
        return batch

    @property
    def slabs(self) -> tuple[Tensor, ...]:
        """One tensor for each width, [N, w*C, ...]; a single shared one before the first sliced layer."""
        self._settle(relu=False)
        return self._slabs

    @property
    def pending(self) -> Finish | None:
        """The work that was put off, as long as nothing has joined it."""
        return None if self._residuals else self._finish

    @property
    def is_put_off(self) -> bool:
        """Whether the slabs have yet to be computed."""
        return self._finish is not None

    def _settle_readers(self) -> None:
        for reader in self._readers:
            batch = reader()
            if batch is not None:
                batch._settle(relu=False)
        self._readers.clear()

    def _settle(self, relu: bool) -> None:
        if self._finish is not None:
            if self._snapshot is not None:
                self._snapshot.refuse_changes("a summand")
            self._slabs = tuple(self._finish(self._residuals, relu))
            self._finish, self._residuals, self._snapshot, self.sources = None, (), None, ()

    def _copy(self) -> WidthBatch:
        assert self._finish is not None and self.widths is not None
        copy = WidthBatch.deferred(self._finish, self.widths, *self.sources)
        copy._residuals, copy._snapshot = self._residuals, self._snapshot
        return copy

    def resolve(self, widths: Widths) -> tuple[float, ...]:
        """The widths that a layer with `widths` sees in this batch.

        Raises:
            ValueError: this batch has widths that the layer doesn't.
        """
        if self.widths is None or self.widths == widths.fractions:
            return widths.fractions
        try:
            return tuple(widths.fractions[widths.index(width)] for width in self.widths)
        except ValueError:
            raise ValueError(f"a WidthBatch of widths {self.widths} met a layer of widths {widths.fractions}") from None

    def at(self, width: float) -> Tensor:
        """The slab of one width.

        Raises:
            ValueError: there is no slab of this width here.
        """
        for own, slab in self:
            if same_width(own, width):
                return slab
        raise ValueError(f"width {width} is none of this batch's widths {self.widths}")

    def __iter__(self) -> Iterator[tuple[float, Tensor]]:
        if self.widths is None:
            raise ValueError("this WidthBatch has met no sliced layer yet, so its widths aren't known")
        return iter(zip(self.widths, self.slabs * len(self.widths) if self.shared else self.slabs, strict=True))

    def __len__(self) -> int:
        return len(self.slabs if self.widths is None else self.widths)

    def __repr__(self) -> str:
        shapes = ", ".join(str(list(slab.shape)) for slab in self._slabs) or "deferred"
        return f"WidthBatch(widths={self.widths or 'every'}, {'shared ' if self.shared else ''}{shapes})"

    @classmethod
    def __torch_function__(
        cls, func: Callable, types: Sequence[type], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> WidthBatch:
        return _slabwise(func, args, kwargs or {})

    def __getattr__(self, name: str) -> Any:
        if name in SLABWISE and hasattr(Tensor, name):
            return lambda *args, **kwargs: _slabwise(getattr(Tensor, name), (self, *args), kwargs)
        if hasattr(Tensor, name) and not name.startswith("__"):
            raise UnsoundError(refusal(f"Tensor.{name}"))
        raise AttributeError(f"'WidthBatch' object has no attribute '{name}'")

    @property
    def device(self) -> torch.device:
        """The device of all slabs."""
        return self.slabs[0].device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of all slabs."""
        return self.slabs[0].dtype

    @property
    def shape(self) -> CommonShape:
        """Sizes of the axes on which the slabs agree; asking for another one raises TypeError."""
        return CommonShape(self.slabs)

    def size(self, dim: int | None = None) -> int | CommonShape:
        """As `torch.Tensor.size`, for the axes on which the slabs agree."""
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        """Number of axes of each slab."""
        return self.slabs[0].dim()

    @property
    def ndim(self) -> int:
        """Number of axes of each slab."""
        return self.slabs[0].dim()

    def __reduce__(self) -> tuple[Any, ...]:
        return WidthBatch, (self.slabs, self.widths, self.shared)

    def __add__(self, other: Any) -> WidthBatch:
        return _slabwise(torch.add, (self, other), {})

    def __sub__(self, other: Any) -> WidthBatch:
        return _slabwise(torch.sub, (self, other), {})

    def __mul__(self, other: Any) -> WidthBatch:
        return _slabwise(torch.mul, (self, other), {})

    def __truediv__(self, other: Any) -> WidthBatch:
        return _slabwise(torch.div, (self, other), {})

    def __rtruediv__(self, other: Any) -> WidthBatch:
        return _slabwise(torch.reciprocal, (self,), {}) * other

    def __pow__(self, other: Any) -> WidthBatch:
        return _slabwise(torch.pow, (self, other), {})

    def __rsub__(self, other: Any) -> WidthBatch:
        return _slabwise(torch.rsub, (self, other), {})

    def __neg__(self) -> WidthBatch:
        return _slabwise(torch.neg, (self,), {})

    def __iadd__(self, other: Any) -> WidthBatch:
        return self + other if self.shared else _slabwise(Tensor.add_, (self, other), {})

    def __isub__(self, other: Any) -> WidthBatch:
        return self - other if self.shared else _slabwise(Tensor.sub_, (self, other), {})

    def __imul__(self, other: Any) -> WidthBatch:
        return self * other if self.shared else _slabwise(Tensor.mul_, (self, other), {})

    def __itruediv__(self, other: Any) -> WidthBatch:
        return self / other if self.shared else _slabwise(Tensor.div_, (self, other), {})

    __radd__ = __add__
    __rmul__ = __mul__


class CommonShape:
    """The shape of slabs, axis by axis where they agree."""

    def __init__(self, slabs: Sequence[Tensor]) -> None:
        self._shapes = [slab.shape for slab in slabs]

    def __getitem__(self, axis: int) -> int:
        sizes = [shape[axis] for shape in self._shapes]
        if any(size != sizes[0] for size in sizes):
            raise TypeError(f"the slabs of this WidthBatch differ on axis {axis}: {sizes}; use -1, or flatten")
        return sizes[0]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (CommonShape, Sequence)):
            return NotImplemented
        return len(self) == len(other) and all(self[axis] == other[axis] for axis in range(len(self)))

    __hash__ = None  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self._shapes[0])


def every_width(images: Tensor) -> WidthBatch:
    """Show `images` [N, ...] to every sub-network of the network that reads them.

    Raises:
        TypeError: `images` is no tensor.
    """
    return WidthBatch((_tensor(images),), None, shared=True)


def at_width(images: Tensor, width: float) -> WidthBatch:
    """Show `images` [N, ...] to the sub-network of one width. The network answers with a WidthBatch of one slab.

    Raises:
        TypeError, ValueError: as `at_widths`.
    """
    return at_widths(images, (width,))


def at_widths(images: Tensor, widths: Sequence[float]) -> WidthBatch:
    """Show `images` [N, ...] to the sub-networks of some widths. The network answers with a slab for each.

    Raises:
        TypeError: `images` is no tensor.
        ValueError: no widths, some that don't ascend, or one outside (0, 1]. That a network has no such width is raised
            when it reads the batch.
    """
    if not widths or any(not 0 < width <= 1 for width in widths) or any(a >= b for a, b in pairwise(widths)):
        given = f"width={widths[0]}" if len(widths) == 1 else f"widths={tuple(widths)}"
        raise ValueError(f"{given} must be in (0, 1]{' and ascend' if len(widths) != 1 else ''}")
    return WidthBatch((_tensor(images),), tuple(float(width) for width in widths), shared=True)


def _tensor(images: Any) -> Tensor:
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a torch.Tensor, not {type(images).__name__}")
    return images


def _slabwise(func: Callable, args: tuple, kwargs: dict[str, Any]) -> WidthBatch:
    """Apply `func` to each sub-network's own arguments."""
    name = func.__name__
    batches = [argument for argument in (*args, *kwargs.values()) if isinstance(argument, WidthBatch)]
    sliced = [batch for batch in batches if not batch.shared]
    if not batches:
        raise TypeError(refusal(f"{name} of a list of them"))
    if _in_place(name, kwargs):
        if args and not isinstance(args[0], WidthBatch):
            raise TypeError(f"{name} can't change a tensor in place by slabs; make a new WidthBatch instead")
        batches[0]._settle_readers()
    if not sliced:
        return WidthBatch((func(*_own(args, 0), **_own_kwargs(kwargs, 0)),), batches[0].widths, shared=True)
    if name not in SLABWISE:
        raise TypeError(refusal(name))
    first = sliced[0]
    for other in batches:
        if other.widths != first.widths and not (other.shared and other.widths is None):
            raise ValueError(f"{name} of WidthBatches of widths {first.widths} and {other.widths}")
    if _in_place(name, kwargs) and batches[0].shared:
        raise TypeError(f"{name} can't change in place what all sub-networks share; make a new tensor instead")
    joined = _joined(name, args, kwargs)
    if joined is not None:
        return joined
    if name == "view":
        func = Tensor.reshape  # slabs are channels-last, which a user's view(N, -1) doesn't expect
    check_partner(name, first.slabs[0], args)
    results = []
    for place, slab in enumerate(first.slabs):
        result = func(*_own(args, place), **_own_kwargs(kwargs, place))
        check_result(name, slab, result)
        results.append(result)
    answer = WidthBatch(results, first.widths)
    if name in ALIASING:
        answer._readers = first._readers
    return answer


def _joined(name: str, args: tuple, kwargs: dict[str, Any]) -> WidthBatch | None:
    """Let an addition or a ReLU join the work that a layer has put off; None where it can't."""
    in_place = _in_place(name, kwargs)
    if name in ("relu", "relu_"):
        batch = args[0] if args else kwargs["input"]
        if batch._finish is None:
            return None
        result = batch if in_place else batch._copy()
        result._settle(relu=True)
        return result
    if name in ("add", "add_") and not kwargs and all(isinstance(a, WidthBatch) and not a.shared for a in args):
        candidates = args[:1] if in_place else args
        base = next((a for a in candidates if a._finish is not None and not a._residuals), None)
        if base is not None and args[0] is not args[1]:
            result = base if in_place else base._copy()
            summand = args[1 if base is args[0] else 0]
            result._residuals = summand.slabs
            result._snapshot = Snapshot(result._residuals)
            summand._readers.append(weakref.ref(result))
            return result
    return None


def _in_place(name: str, kwargs: dict[str, Any]) -> bool:
    return name[-1:] == "_" or bool(kwargs.get("inplace", False))  # torch.compile traces no `endswith` of it


def _own(arguments: Sequence[Any], place: int) -> list[Any]:
    return [(a.slabs[0] if a.shared else a.slabs[place]) if isinstance(a, WidthBatch) else a for a in arguments]


def _own_kwargs(arguments: dict[str, Any], place: int) -> dict[str, Any]:
    return dict(zip(arguments, _own(list(arguments.values()), place), strict=True))
