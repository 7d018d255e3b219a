"""Scroll policies: which block a task ranks first.

At scroll s the blocks s, s + 1, ... (mod B) are ranked from the most to the least important: block s is held by every
sub-network, the last one only by width 1.0. A network with one block (widths 1) is always at scroll 0, and so is the
first task.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slimkern.continual.config import ScrollName, TrainConfig
from slimkern.continual.network import ContinualNet
from slimkern.nn import current_scroll
from slimkern.widths import Widths

_RANDOM_STREAM = 5


class ScrollPolicy:
    """Chooses the scroll of each task. Told of tasks in their order; a resumed policy chooses as an unbroken one."""

    def choose(self, net: ContinualNet, task: int, images: Tensor) -> int:
        """The scroll of task `task`, in blocks.

        Args:
            net: as the last task left it, at that task's scroll.
            task: from 0.
            images: some of the new task's, as the network takes them, float32 [N, C, H, W].
        """
        raise NotImplementedError

    def task_learned(self, net: ContinualNet, images: Tensor) -> None:
        """Called once a task is learned, with the images it was chosen by."""

    def state_dict(self) -> dict[str, Any]:
        """What is remembered of earlier tasks, as tensors and plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state given by `state_dict`."""


@dataclass
class Constant(ScrollPolicy):
    """Task t is at scroll t * step mod B: Eq. 5 of ScrollNet."""

    step: int

    def choose(self, net: ContinualNet, task: int, images: Tensor) -> int:
        """As Eq. 5."""
        return task * self.step % net.widths.blocks


@dataclass
class Random(ScrollPolicy):
    """Each task scrolls on by 1 to B - 1 blocks, all equally likely, so that no two neighbours are ranked alike."""

    seed: int

    def choose(self, net: ContinualNet, task: int, images: Tensor) -> int:
        """The last scroll and a random step, which depends on the seed and the task alone."""
        blocks = net.widths.blocks
        if task == 0 or blocks == 1:
            return 0
        step = np.random.default_rng([self.seed, _RANDOM_STREAM, task]).integers(1, blocks)
        return (current_scroll(net) + int(step)) % blocks


@dataclass
class Correlation(ScrollPolicy):
    """Keep apart, in the ranking, tasks whose features are unlike: the paper's section 5 names it as future work.

    A task's profile is the mean over some of its training images of the backbone's features at width 1.0, in the order
    of the stored channels, taken from the network that has just learned it. Before a new task its images go through the
    present network, which gives its profile; rho_i is the correlation of that with the profile of task i over channels
    (Pearson's; negative ones count as 0). The scroll is the s that makes

        sum over earlier tasks i of (1 - rho_i) * overlap(s - s_i)

    smallest, where overlap(d) = sum_b h(b) h(b + d) and h(r) is the share of sub-networks that hold the block of rank
    r: how much of what two rankings d blocks apart hold dear is the same. A task that is like an earlier one may so use
    the same blocks; one that is unlike all is put where the least was learned. Of equals the nearest ahead is taken,
    and the present scroll last.
    """

    scrolls: list[int] = field(default_factory=list)
    profiles: list[Tensor] = field(default_factory=list)

    def choose(self, net: ContinualNet, task: int, images: Tensor) -> int:
        """The scroll of least cost."""
        blocks = net.widths.blocks
        if not self.profiles or blocks == 1:
            return 0
        new = profile(net, images)
        unlikeness = np.array([1 - max(correlation(new, old), 0.0) for old in self.profiles])
        candidates = [(current_scroll(net) + step) % blocks for step in (*range(1, blocks), 0)]
        shared = np.array([[overlap(net.widths, scroll - old) for old in self.scrolls] for scroll in candidates])
        # Rounded, so that costs that are equal but for rounding are.
        return candidates[int(np.argmin((shared @ unlikeness).round(9)))]

    def task_learned(self, net: ContinualNet, images: Tensor) -> None:
        """Remember the task's scroll and profile."""
        self.scrolls.append(current_scroll(net))
        self.profiles.append(profile(net, images))

    def state_dict(self) -> dict[str, Any]:
        """The scrolls and profiles of earlier tasks."""
        return {"scrolls": list(self.scrolls), "profiles": list(self.profiles)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the scrolls and profiles."""
        self.scrolls, self.profiles = list(state["scrolls"]), list(state["profiles"])


def make_scroll_policy(config: TrainConfig) -> ScrollPolicy:
    """The policy that a configuration asks for."""
    policies: dict[ScrollName, ScrollPolicy] = {
        "constant": Constant(config.scroll_step),
        "none": Constant(0),
        "random": Random(config.seed),
        "correlation": Correlation(),
    }
    return policies[config.scroll]


@torch.no_grad()
def profile(net: ContinualNet, images: Tensor) -> Tensor:
    """Mean features of images at width 1.0, float32 [C] in the order of the stored channels."""
    training = net.training
    net.eval()
    features = net.backbone(images)
    net.train(training)
    assert isinstance(features, Tensor)
    mean = features.mean(0)
    return mean.roll(net.widths.offset(len(mean), current_scroll(net)))


def correlation(one: Tensor, other: Tensor) -> float:
    """Pearson's correlation of two vectors [C], in [-1, 1]; 0 where one of them is constant."""
    centred = [vector.double() - vector.double().mean() for vector in (one, other)]
    return float(torch.cosine_similarity(*centred, dim=0))


def overlap(widths: Widths, steps: int) -> float:
    """How much two rankings `steps` blocks apart hold dear the same blocks; largest at 0 steps."""
    ranks = np.arange(widths.blocks)
    held = np.array([np.mean([rank < share for share in widths.shares]) for rank in ranks])
    return float(held @ held[(ranks + steps) % widths.blocks])
