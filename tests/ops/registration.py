"""Checks of what the operators tell `torch.library` about themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class Recorder(TorchFunctionMode):
    """Remembers the calls of our operators, with their arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[torch._ops.OpOverload, Sequence[Any]]] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if isinstance(func, torch._ops.OpOverload) and func.namespace == "slimkern":
            self.calls.append((func, args))
        return func(*args, **kwargs or {})


def check_registration(call: Callable[[], object]) -> None:
    """Run `torch.library.opcheck` on the operators that `call` reaches: schema, fake, autograd, symbolic tracing."""
    with Recorder() as recorder:
        call()
    assert recorder.calls
    for operator, arguments in recorder.calls:
        torch.library.opcheck(operator, tuple(arguments))
