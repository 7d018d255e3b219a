"""Which channels belong to which sub-network. Integers only; imports nothing of the package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from math import lcm
from numbers import Integral, Real

_LARGEST_DENOMINATOR = 1024
_SAME_WIDTH = 1e-6


@dataclass(frozen=True)
class Widths:
    """The ascending widths of a network, as whole numbers of blocks.

    Attributes:
        shares: blocks that each sub-network takes, ascending; the last one takes all of them. `(1, 2, 3, 4)` are the
            widths 1/4, 2/4, 3/4 and 1; `(1, 2, 4)` are 1/4, 1/2 and 1.
        fractions: the widths as floats, the last one 1.0.
    """

    shares: tuple[int, ...]
    fractions: tuple[float, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "fractions", tuple(share / self.blocks for share in self.shares))

    @classmethod
    def of(cls, widths: int | Sequence[float] | Widths) -> Widths:
        """Read widths as users write them: `4` for (1/4, 2/4, 3/4, 1), or ascending fractions that end in 1.0.

        Raises:
            ValueError: no widths, unsorted or repeated ones, one outside (0, 1], or a last one that isn't 1.0.
            TypeError: neither a whole number nor a sequence of numbers.
        """
        if isinstance(widths, Widths):
            return widths
        if isinstance(widths, bool) or not isinstance(widths, (Integral, Sequence)) or isinstance(widths, str):
            raise TypeError(f"widths must be a whole number or a sequence of fractions, not {widths!r}")
        if isinstance(widths, Integral):
            if widths < 1:
                raise ValueError(f"widths={widths}: the number of sub-networks must be at least 1")
            return cls(tuple(range(1, int(widths) + 1)))
        fractions = [_fraction(width) for width in widths]
        if not fractions or any(a >= b for a, b in pairwise(fractions)) or fractions[-1] != 1:
            raise ValueError(f"widths={tuple(widths)}: must ascend and end in 1.0, as in (0.25, 0.5, 1.0)")
        blocks = lcm(*(fraction.denominator for fraction in fractions))
        return cls(tuple(int(fraction * blocks) for fraction in fractions))

    @property
    def blocks(self) -> int:
        """Number of blocks that a sliced axis is cut into; scrolls count modulo this."""
        return self.shares[-1]

    def index(self, width: float) -> int:
        """Place of `width` among the widths.

        Raises:
            ValueError: it is none of them; the message lists them.
        """
        if width in self.fractions:
            return self.fractions.index(width)
        for place, fraction in enumerate(self.fractions):
            if same_width(fraction, width):
                return place
        raise ValueError(f"width {width} is none of this network's widths {self.fractions}")

    def places(self, widths: Sequence[float]) -> list[int]:
        """`index` of each of `widths`."""
        if widths == self.fractions:  # as nearly always; then nothing has to be looked for
            return list(range(len(widths)))
        return [self.index(width) for width in widths]

    def channels(self, total: int, width: float) -> int:
        """Channels that the sub-network of `width` uses of a sliced axis with `total` channels."""
        return self.counts(total, [width])[0]

    def counts(self, total: int, widths: Sequence[float]) -> list[int]:
        """`channels` of each of `widths`."""
        block = total // self.blocks
        return [block * self.shares[place] for place in self.places(widths)]

    def offset(self, total: int, scroll: int) -> int:
        """Channel at which a sliced axis with `total` channels starts after `scroll` blocks."""
        return total // self.blocks * (scroll % self.blocks)

    def check_divide(self, total: int, what: str, remedy: str = "") -> None:
        """Refuse an axis that can't be cut into blocks.

        Raises:
            ValueError: `total` channels, named `what` in the message, aren't a multiple of the blocks.
        """
        if total % self.blocks:
            raise ValueError(
                f"{what}={total} can't be cut into the {self.blocks} blocks of widths {self.fractions}: "
                f"it must be a multiple of {self.blocks}{remedy}"
            )


def same_width(first: float, second: float) -> bool:
    """Whether two widths are the same but for rounding."""
    return abs(first - second) < _SAME_WIDTH


def pieces(offset: int, count: int, total: int) -> list[tuple[slice, slice]]:
    """The stretches of a rotated axis: `count` positions from channel `offset` on, at most two of them.

    Returns:
        Pairs (positions, channels) of slices of equal length.
    """
    head = min(count, total - offset)
    stretches = [(slice(0, head), slice(offset, offset + head))]
    if head < count:
        stretches.append((slice(head, count), slice(0, count - head)))
    return stretches


def _fraction(width: float) -> Fraction:
    if isinstance(width, bool) or not isinstance(width, Real):
        raise TypeError(f"a width must be a number in (0, 1], not {width!r}")
    if not 0 < width <= 1:
        raise ValueError(f"width {width} is outside (0, 1]")
    fraction = Fraction(float(width)).limit_denominator(_LARGEST_DENOMINATOR)
    if abs(fraction - Fraction(float(width))) > _SAME_WIDTH:
        raise ValueError(f"width {width} is no fraction with a denominator up to {_LARGEST_DENOMINATOR}")
    return fraction
