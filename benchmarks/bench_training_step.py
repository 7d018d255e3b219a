"""One training step of ResNet-18 on 32x32 images: all sub-networks of a slimmable network beside the plain network.

    python benchmarks/bench_training_step.py [--batch 64] [--widths 4] [--repetitions 20]

Both networks take their steps in turn in one process, so that a machine whose speed drifts slows both. The figure to
read is the median of the ratios, repetition by repetition.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import slimkern as sk
from slimkern.memory import keep_freed_memory
from slimkern.models import resnet18

Step = Callable[[Tensor, Tensor], None]


def plain_step(net: nn.Module, optimiser: torch.optim.Optimizer) -> Step:
    def step(images: Tensor, labels: Tensor) -> None:
        optimiser.zero_grad(set_to_none=True)
        F.cross_entropy(net(images), labels).backward()
        optimiser.step()

    return step


def slimmable_step(net: nn.Module, optimiser: torch.optim.Optimizer) -> Step:
    def step(images: Tensor, labels: Tensor) -> None:
        optimiser.zero_grad(set_to_none=True)
        torch.stack([F.cross_entropy(logits, labels) for _, logits in net(sk.every_width(images))]).sum().backward()
        optimiser.step()

    return step


def prepared(net: nn.Module, make: Callable[[nn.Module, torch.optim.Optimizer], Step]) -> Step:
    net = net.to(memory_format=torch.channels_last)
    return make(net, torch.optim.SGD(net.parameters(), lr=0.01))


def seconds(step: Step, images: Tensor, labels: Tensor) -> float:
    start = time.perf_counter()
    step(images, labels)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64, help="images a step")
    parser.add_argument("--widths", type=int, default=4, help="number of even widths")
    parser.add_argument("--scroll", type=int, default=0, help="blocks that the ranking is scrolled by")
    parser.add_argument("--repetitions", type=int, default=20, help="timed steps of each network")
    arguments = parser.parse_args()

    keep_freed_memory()  # as the trainer does on a CPU; both networks gain by it
    torch.manual_seed(0)
    images = torch.randn(arguments.batch, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(100, (arguments.batch,))
    slimmable = resnet18(widths=arguments.widths)
    sk.scroll_to(slimmable, task=arguments.scroll)
    steps = {"plain": prepared(resnet18(), plain_step), "slimkern": prepared(slimmable, slimmable_step)}

    for step in steps.values():
        for _ in range(3):
            step(images, labels)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(arguments.repetitions):
        for name, step in steps.items():
            times[name].append(seconds(step, images, labels))

    print(
        f"ResNet-18, 32x32, batch {arguments.batch}, float32, channels-last, widths={arguments.widths}, scroll "
        f"{arguments.scroll}, torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}"
    )
    for name, measured in times.items():
        low, middle, high = statistics.quantiles(measured, n=4)
        print(f"{name:10} {middle * 1e3:8.1f} ms a step   (quartiles {low * 1e3:.1f} to {high * 1e3:.1f})")
    ratios = [slim / plain for slim, plain in zip(times["slimkern"], times["plain"], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"ratio      {middle:8.3f}             (quartiles {low:.3f} to {high:.3f}; floor of the arithmetic 1.875)")


if __name__ == "__main__":
    main()
