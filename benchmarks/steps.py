"""The training steps that are compared: each contender, each way to launch it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal

import contenders
import torch
from contenders import Contender
from profiled import profiled

import slimkern as sk
from slimkern.continual.config import TrainConfig
from slimkern.continual.optimiser import Optimiser
from slimkern.continual.precision import autocast
from slimkern.ops import backends
from slimkern.widths import Widths

KINDS = ("plain", "slimkern", "passes", "released", "masked")
BACKENDS = {"native": "native,torch", "torch": "torch", "triton": "triton,native,torch"}
DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Way = Literal["eager", "compiled", "captured"]


class Training:
    """The step of a contender in one precision, on one batch, launched in one way. Call `select` before its turn.

    Raises:
        RuntimeError: when called, if it can't be captured.
    """

    def __init__(
        self,
        contender: Contender,
        way: Way,
        precision: Any,
        batch: int,
        device: str,
        backend: str | None = None,
        mode: str = "default",
    ) -> None:
        compiled = way == "compiled"
        self._loss = torch.compile(contender.loss, mode=mode) if compiled else contender.loss
        self._hidden = device == "cuda" and mode == "max-autotune"
        self._precision, self._device, self._backend = precision, torch.device(device), backend
        self._optimiser = Optimiser(contender.parameters, TrainConfig(learning_rate=0.01, precision=precision))
        self._captured = sk.capture(self._step) if way == "captured" else None
        torch.manual_seed(1)
        self._images = torch.randn(batch, 3, 32, 32, device=device).contiguous(memory_format=contender.layout)
        self._labels = torch.randint(100, (batch,), device=device)

    def select(self) -> None:
        """Let the operators of the steps to come be served by this one's backend."""
        if self._backend is None:
            os.environ.pop(backends.ENVIRONMENT_VARIABLE, None)
        else:
            os.environ[backends.ENVIRONMENT_VARIABLE] = BACKENDS[self._backend]

    def __call__(self) -> None:
        """Take a step."""
        if self._captured is None:
            return self.one_by_one()
        self._captured(self._images, self._labels)
        if self._captured.reason:
            raise RuntimeError(self._captured.reason)

    def one_by_one(self) -> None:
        """Take a step outside of any graph of ours."""
        self._step(self._images, self._labels)

    def profile(self) -> tuple[int, int | None]:
        """The launches of a step, and the bytes it takes at most.

        A CUDA graph would hold its memory beforehand, so a step outside of any tells those; that of steps which
        Inductor captures is unknown.
        """
        launched = profiled(self, self._device.type)
        if self._captured is not None and self._device.type == "cuda":
            return launched.launches, profiled(self.one_by_one, self._device.type).peak_bytes
        return launched.launches, None if self._hidden else launched.peak_bytes

    def _step(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        with autocast(self._precision, self._device):
            loss = self._loss(images, labels)
        self._optimiser.step(loss)


def steps(options: argparse.Namespace, batch: int, precision: str) -> Iterator[tuple[str, Callable[[], Training]]]:
    """The name of each step that is asked for and what makes it, the cheap and telling ones first."""
    widths, on_gpu = Widths.of(options.widths), options.device == "cuda"
    base = contenders.base_network(options.channels).to(options.device)
    plain = partial(contenders.plain, base)
    own = partial(contenders.slimkern, base, widths, options.scroll)
    views = partial(contenders.passes, base, widths, options.scroll, contenders.by_views)
    streams = partial(views, streams=True)
    way_of_release = partial(
        contenders.passes, base, widths, options.scroll, contenders.by_concatenation, torch.contiguous_format
    )
    masked = partial(contenders.masked, base, widths)
    present = [name for name in options.backends if any(name in known for known in backends.OPERATORS.values())]

    def listed() -> Iterator[tuple[str, str, Callable[[], Contender], Way, dict[str, Any]]]:
        yield "plain", "plain", plain, "eager", {}
        for name in present:
            yield "slimkern", f"slimkern {name}", own, "eager", {"backend": name}
        yield "passes", "passes", views, "eager", {}
        yield "released", "released way", way_of_release, "eager", {}
        if not options.scroll:
            yield "masked", "masked", masked, "eager", {}
        yield "plain", "plain", plain, "captured", {}
        for name in present:
            yield "slimkern", f"slimkern {name}", own, "captured", {"backend": name}
        yield "passes", "passes", views, "captured", {}
        if on_gpu:
            yield "passes", "passes", streams, "captured", {}
        yield "plain", "plain", plain, "compiled", {}
        yield "passes", "passes", views, "compiled", {"mode": "max-autotune"}

    for kind, name, make, way, extra in listed():
        if kind in options.only and way not in options.skip:
            full = f"{name}, {way}" + " on streams" * (make is streams)
            yield full, partial(_made, make, way, precision, batch, options.device, extra)


def _made(
    make: Callable[[], Contender], way: Way, precision: str, batch: int, device: str, extra: dict[str, Any]
) -> Training:
    return Training(make(), way, precision, batch, device, **extra)
