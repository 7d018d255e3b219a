"""Recordings of operators that tell what became of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from slimkern.graphs.operators import OperatorGraphs
from slimkern.graphs.recorded import Recorded, Step


class LoggedGraphs(OperatorGraphs):
    """`log` tells what was done, over all its instances."""

    log: list[str] = []  # noqa: RUF012 - shared on purpose, as a step makes new instances

    def warm_up(self, step: Step, tensors: Sequence[Tensor]) -> Any:
        self.log.append("eager")
        return super().warm_up(step, tensors)

    def record(self, step: Step, tensors: Sequence[Tensor], modules: Sequence[nn.Module] = ()) -> Recorded:
        recorded = super().record(step, tensors, modules)
        self.log.append("recorded" if recorded.replay else "refused")
        replay = recorded.replay
        if replay is None:
            return recorded

        def logged(*given: Tensor) -> Any:
            self.log.append("replayed")
            return replay(*given)

        return recorded._replace(replay=logged)
