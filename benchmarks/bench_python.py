"""What a training step of all sub-networks costs besides its arithmetic: Python, the dispatcher, the autograd graph.

    python benchmarks/bench_python.py [--widths 4] [--repetitions 50] [--save]

The step is the trainer's, launched by `slimkern.capture`, on a narrow ResNet-18: "captured", the recording that is
replayed, or "eager", which goes through modules, checks and the autograd graph each time. Two rows of each tell what is
left where results are handed back in all later steps as they were in the first, with augmentation, clipping and update
of the few weights. "without its own operators" takes out slimkern's operators, forward and backward. "without its
arithmetic" takes out only PyTorch's convolutions and the compiled kernels, so what the operators do for each slab is
left too. It is the time of the one thread that does it all. The plain network's convolutions and batch norms are called
by PyTorch's own graph and can't be replaced: they work on 2 images of 1x1 pixels.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch._dynamo  # the optimisers import it, which must not meet the replaced functions
import torch.nn.functional as F
from rows import Row, finish, left_out, parser, row
from torch import Tensor

import slimkern as sk
from slimkern.continual.config import TrainConfig
from slimkern.continual.data.augment import Augmentation
from slimkern.continual.loss_ring import LossRing
from slimkern.continual.methods import make_method
from slimkern.continual.network import ContinualNet
from slimkern.continual.optimiser import Optimiser
from slimkern.continual.step import TrainStep
from slimkern.models import resnet18
from slimkern.ops import native, ragged_head, scroll_conv2d, scroll_conv2d_batch_norm, switchable_batch_norm

NATIVE = ["batch_norm_forward", "batch_norm_backward", "ragged_head", "ragged_head_backward"]
KERNELS = [
    (F, "conv2d"),
    (torch.ops.aten, "convolution_backward"),
    *((torch.ops.slimkern_native, name) for name in NATIVE),
]
"""Owners and names of the functions that do the arithmetic."""

OPERATORS = [
    (getattr(sys.modules[operator.__module__], name), "_compute")
    for operator in (ragged_head, scroll_conv2d, scroll_conv2d_batch_norm, switchable_batch_norm)
    for name in ("_forward", "_backward")
]
"""The same of slimkern's own operators, which call them."""

CONFIG = TrainConfig(channels=8, learning_rate=0.0)


class Replay:
    """Calls a function until told to hand back the results of those calls, in turn."""

    def __init__(self, owner: Any, name: str) -> None:
        self.function: Callable[..., Any] = getattr(owner, name)
        self.results: list[Any] = []
        self.next: int | None = None

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        if self.next is None:
            self.results.append(self.function(*arguments, **options))
            return self.results[-1]
        result = self.results[self.next % len(self.results)]
        self.next += 1
        return anew(result)


def anew(result: Any) -> Any:
    """Another tensor object with the same memory, which a new graph can be hung on."""
    if isinstance(result, Tensor):
        return result.detach()
    return type(result)(map(anew, result)) if isinstance(result, list | tuple) else result


@contextmanager
def replayed(places: Sequence[tuple[Any, str]]) -> Iterator[list[Replay]]:
    """Put a replay in the place of each function meanwhile."""
    calls = [Replay(owner, name) for owner, name in places]
    try:
        for (owner, name), call in zip(places, calls, strict=True):
            setattr(owner, name, call)
        yield calls
    finally:
        for (owner, name), call in zip(places, calls, strict=True):
            setattr(owner, name, call.function)


def step_of_the_trainer(widths: int, eager: bool) -> Callable[[], object]:
    """A step on 2 images of 8x8 pixels, launched often enough to have been recorded."""
    own = sk.Widths.of(widths)
    net = ContinualNet(resnet18(None, own, channels=CONFIG.channels), own)
    net.add_head(10)
    net = net.to(memory_format=torch.channels_last).train()
    augmentation = Augmentation.named("crop-flip", [0.5] * 3, [0.25] * 3)
    ring = LossRing(10, torch.device("cpu"))
    step = TrainStep(
        net, make_method(CONFIG), range(10), Optimiser(list(net.parameters()), CONFIG), augmentation, "fp32", ring
    )
    launch = sk.capture(step, net, eager_because="it was asked for" if eager else None)
    images, labels = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8), torch.tensor([0, 1])
    for _ in range(3):
        launch(images, labels)
    return lambda: launch(images, labels)


def step_of_a_plain_network() -> Callable[[], object]:
    """The same on 2 images of 1x1 pixels, without augmentation."""
    net = resnet18(10, channels=CONFIG.channels).to(memory_format=torch.channels_last)
    images, labels = torch.randn(2, 3, 1, 1), torch.tensor([0, 1])
    optimiser = Optimiser(list(net.parameters()), CONFIG)
    return lambda: optimiser.step(F.cross_entropy(net(images), labels))


def seconds(step: Callable[[], object], repetitions: int) -> list[float]:
    """Of the calling thread, without the first tenth."""
    times = []
    for _ in range(repetitions + repetitions // 9):
        start = time.thread_time()
        step()
        times.append(time.thread_time() - start)
    return times[-repetitions:]


def python_time(
    widths: int, repetitions: int, eager: bool, places: Sequence[tuple[Any, str]]
) -> tuple[list[float], dict[str, float]]:
    """Seconds of each step without the functions at `places`, handing results back taken off, and that."""
    step = step_of_the_trainer(widths, eager)
    with replayed(places) as calls:
        step()
        for call in calls:
            call.next = 0
        times = seconds(step, repetitions)
    handing = statistics.median(
        seconds(lambda: [anew(result) for call in calls for result in call.results], repetitions)
    )
    return [own - handing for own in times], {"handing results back ms": 1e3 * handing}


def measure(widths: int, repetitions: int) -> list[Row]:
    """The rows, of one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        plain = seconds(step_of_a_plain_network(), repetitions)
        own = {
            f"slimkern, {'eager' if eager else 'captured'}, without its {what}": python_time(
                widths, repetitions, eager, places
            )
            for eager in (False, True)
            for what, places in (("own operators", OPERATORS), ("arithmetic", KERNELS))
        }
    finally:
        torch.set_num_threads(threads)
    case = {"widths": widths}
    return [
        row("python", case, "plain, with its operators", plain),
        *(row("python", case, name, *found) for name, found in own.items()),
    ]


def main() -> None:
    options = parser(__doc__, 50)
    options.add_argument("--widths", type=int, default=4, help="number of even widths")
    arguments = options.parse_args()
    if arguments.device != "cpu":
        return left_out("Python's time", "it is that of a CPU; --device cpu measures it")
    if reason := native.why_unavailable("cpu"):
        return left_out("Python's time", f"there are no compiled kernels to replace: {reason}")
    finish(measure(arguments.widths, arguments.repetitions), arguments)
    return None


if __name__ == "__main__":
    main()
