"""What a training step of all sub-networks costs besides its arithmetic: Python, the dispatcher, the autograd graph.

    python benchmarks/bench_python.py [--widths 4] [--repetitions 50]

The networks are ResNet-18 with the convolutions and batch norms of the first step handed back in all later ones, so
that what is left is the work around them, the loss and the optimiser. It is the time of the one thread that does it
all, which other programs don't lengthen. The plain network's convolutions and batch norms are called by PyTorch's own
graph and can't be replaced: they work on 2 images of 1x1 pixels.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch._dynamo  # the optimisers import it, which must not meet the replaced functions
import torch.nn.functional as F
from torch import Tensor, nn

import slimkern as sk
from slimkern.models import resnet18
from slimkern.ops import native


class Replay:
    """Calls a function until told to hand back the results of those calls, in turn."""

    def __init__(self, owner: Any, name: str) -> None:
        self.function: Callable[..., Any] = getattr(owner, name)
        self.results: list[Any] = []
        self.next: int | None = None
        setattr(owner, name, self)

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


def make_step(net: nn.Module, images: Any, labels: Tensor) -> Callable[[], None]:
    net = net.to(memory_format=torch.channels_last)
    parameters = list(net.parameters())
    optimiser = torch.optim.SGD(parameters, lr=0.0)

    def step() -> None:
        answers = net(images)
        logits = [answers] if isinstance(answers, Tensor) else [own for _, own in answers]
        optimiser.zero_grad(set_to_none=True)
        torch.stack([F.cross_entropy(own, labels) for own in logits]).sum().backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()

    return step


def milliseconds(step: Callable[[], object], repetitions: int) -> list[float]:
    times = []
    for _ in range(repetitions):
        start = time.thread_time()
        step()
        times.append((time.thread_time() - start) * 1e3)
    return times[repetitions // 10 :]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, default=4, help="number of even widths")
    parser.add_argument("--repetitions", type=int, default=50, help="timed steps of each network")
    arguments = parser.parse_args()
    if reason := native.why_unavailable("cpu"):
        raise SystemExit(f"there are no compiled kernels to replace: {reason}")

    torch.set_num_threads(1)
    images, labels = torch.randn(2, 3, 1, 1), torch.tensor([0, 1])
    plain = milliseconds(make_step(resnet18(10, channels=8), images, labels), arguments.repetitions)
    calls = [Replay(F, "conv2d"), Replay(torch.ops.aten, "convolution_backward")]
    calls += [Replay(torch.ops.slimkern_native, f"batch_norm_{way}") for way in ("forward", "backward")]
    step = make_step(resnet18(10, arguments.widths, channels=8), sk.every_width(torch.randn(2, 3, 8, 8)), labels)
    step()
    for call in calls:
        call.next = 0
    slimmable = milliseconds(step, arguments.repetitions)
    replayed = milliseconds(lambda: [anew(result) for call in calls for result in call.results], arguments.repetitions)
    print(f"Python and framework a step of ResNet-18, torch {torch.__version__}, 1 thread")
    rows = {
        "plain, with its operators": plain,
        f"{arguments.widths} widths, without": slimmable,
        "handing results back, therein": replayed,
    }
    for name, times in rows.items():
        low, middle, high = statistics.quantiles(times, n=4)
        print(f"{name:30} {middle:6.2f} ms (quartiles {low:.2f} to {high:.2f}, least {min(times):.2f})")


if __name__ == "__main__":
    main()
