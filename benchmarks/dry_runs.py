"""What is run on a GPU that isn't there: a training step, and every pass of every layer by every configuration."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import contenders
from absent_gpu import run_all
from bench_scroll_conv2d import WAYS, passes
from convolutions import LAYERS, Work
from steps import DTYPES, Training

from slimkern.continual.precision import tensor_float_32
from slimkern.ops import backends, native
from slimkern.widths import Widths


def training(batch: int, precision: Any, scroll: int, channels: int = 64) -> Callable[[], None]:
    """What takes a training step of `slimkern triton` on the CPU, again and again; to be called within `absent_gpu`."""
    base = contenders.base_network(channels)
    own = Training(contenders.slimkern(base, Widths.of(4), scroll), "eager", precision, batch, "cpu", "triton")
    own.select()
    if native.why_unavailable("cpu"):
        os.environ[backends.ENVIRONMENT_VARIABLE] = "triton,torch"

    def take() -> None:
        with tensor_float_32(precision):
            own()

    return take


def layers(batch: int, precision: Any) -> None:
    """Run every pass of every layer of `bench_scroll_conv2d` by every configuration that suits, within `absent_gpu`."""
    with tensor_float_32(precision):
        for layer in LAYERS:
            work = Work(layer, batch, DTYPES[precision], "cpu")
            for operation in passes(layer):
                calls = [(way, work.by_triton(operation, way)) for way in WAYS]
                for problem, call in filter(None, (own for _, own in calls)):
                    run_all(problem, {"": call})
