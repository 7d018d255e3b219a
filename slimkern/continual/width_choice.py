"""Which widths each step of an epoch trains."""

from __future__ import annotations

import numpy as np

from slimkern.widths import Widths

Choice = tuple[float, ...]


def sandwiches(widths: Widths, count: int, steps: int, seed: int, *place: int) -> list[Choice]:
    """The narrowest, the widest and others at random: the sandwich rule (Yu & Huang 2019, universally slimmable nets).

    Args:
        widths: of the network.
        count: widths a step, at least 2 unless the network has but one.
        steps: how many choices to make.
        seed: of the run.
        place: where the run is, such as task and epoch: the same place gives the same choices.

    Returns:
        For each step ascending widths that end in 1.0.
    """
    narrowest, *between, widest = widths.fractions
    generator = np.random.default_rng([seed, *place])
    picks = (generator.choice(len(between), count - 2, replace=False) for _ in range(steps))
    return [(narrowest, *(between[pick] for pick in sorted(own)), widest) for own in picks]
