"""SCL-PNC: scalable class-incremental learning based on parametric neural collapse (arXiv 2512.21845)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimkern.continual.config import ConfigError
from slimkern.continual.methods.method import Method
from slimkern.width_batch import WidthBatch

_PUBLISHED_COLUMNS = 100


@dataclass
class SCLPNC(Method):
    """Learn each task by a branch of its own beside the frozen ones, and all classes by a fixed equiangular frame.

    loss = dot regression + strength * distillation, the latter from the second task on, as long as the first so many
    epochs last. The network and its growth are in `slimkern.continual.branches`, what the paper leaves open in
    docs/scl_pnc.md.

    Args:
        strength: weight of the distillation between the last two branches, which is a sum over the batch.
        distilled: share of a task's epochs, from its first on, in which there is distillation.
        reweighted: 1 weighs classes by how rare they are in a batch, 0 doesn't.
        columns: K of the first task's frame; later ones have as many more as there are new classes. 0 stands for the
            classes seen, and for 100 where the released code is followed.
        target: with `--expand demand`, the accuracy on the new classes' training images, from 0 to 1, that the present
            branches have to reach for a task to do without a new one.
        probe_epochs: with `--expand demand`, epochs for which a new neck and head are fitted to find that accuracy.
    """

    needs_exemplars: ClassVar[bool] = True
    truncates_exemplars: ClassVar[bool] = True
    scrolls: ClassVar[bool] = False
    defaults: ClassVar[dict[str, Any]] = {
        "data": "cifar100",
        "tasks": 6,
        "first_task_classes": 50,
        "class_order": "icarl",
        "validation": 0.0,
        "augmentation": "crop-flip-jitter",
        "model": "resnet32-branches",
        "channels": 16,
        "exemplars": 3312,
        "widths": (1.0,),
        "batch_size": 128,
        "momentum": 0.9,
        "weight_decay": 2e-4,
        "decay_at": (0.4, 0.6, 0.75),
        "first_task_weight_decay": 5e-4,
        "first_task_decay_at": (0.8, 0.9),
        "clip": 1.0,
    }

    strength: float = 0.25
    distilled: float = 0.5
    reweighted: float = 1
    columns: float = 0
    target: float = 0.9
    probe_epochs: float = 20

    def __post_init__(self) -> None:
        for name in ("distilled", "target"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"option {name}={getattr(self, name):g} of SCLPNC must lie in 0 to 1")
        if self.reweighted not in (0, 1):
            raise ConfigError(f"option reweighted={self.reweighted:g} of SCLPNC must be 0 or 1")
        if self.columns != int(self.columns) or self.columns == 1:
            raise ConfigError(f"option columns={self.columns:g} of SCLPNC must be 0 or a whole number above 1")
        if self.probe_epochs < 1 or self.probe_epochs != int(self.probe_epochs):
            raise ConfigError(f"option probe_epochs={self.probe_epochs:g} of SCLPNC must be a whole number above 0")

    def columns_of(self, ends: Sequence[int], released: bool) -> list[int]:
        """K of each task's frame.

        Args:
            ends: how many classes have been seen after each task.
            released: the default is that of the released code.

        Raises:
            ConfigError: a task with fewer columns than classes seen, or fewer than two.
        """
        first = int(self.columns) or (_PUBLISHED_COLUMNS if released else ends[0])
        found = [first + end - ends[0] for end in ends]
        for task, (own, end) in enumerate(zip(found, ends, strict=True)):
            if own < max(end, 2):
                raise ConfigError(
                    f"task {task} has {own} columns for {end} classes seen; it needs at least {max(end, 2)}: give "
                    "another number as option columns, or a first task of more classes"
                )
        return found

    def parts(self, directions: Tensor, frame: Tensor, labels: Tensor, last_two: Sequence[Tensor]) -> dict[str, Tensor]:
        """The parts of the loss.

        Args:
            directions: h, [N, d'].
            frame: M, [d', K].
            labels: int64 [N].
            last_two: features of the last but one branch and of the last, [N, d] each; empty for no distillation.
        """
        weights = class_weights(labels, frame.shape[1]) if self.reweighted else frame.new_ones(frame.shape[1])
        parts = {"dot regression": dot_regression(directions, frame * weights, labels)}
        if last_two:
            parts["distillation"] = self.strength * branch_distillation(*last_two)
        return parts

    def scores(self, net: nn.Module, images: Tensor) -> WidthBatch:
        """The logits of all columns, those of classes not yet seen included."""
        return WidthBatch([net(images)], (1.0,))


def class_weights(labels: Tensor, columns: int) -> Tensor:
    """w_k = sqrt((B / U) / n_k) for a batch of B labels, U distinct ones, n_k of class k; 1 where n_k is 0: [columns].

    Args:
        labels: int64 [B].
        columns: K.
    """
    counts = (labels[:, None] == torch.arange(columns, device=labels.device)).sum(0)
    present = counts > 0
    fair = len(labels) / present.sum()
    return torch.where(present, fair / counts.clamp(min=1), 1.0).sqrt()


def dot_regression(directions: Tensor, frame: Tensor, labels: Tensor) -> Tensor:
    """L_DR = 1/2 mean_i (m_y'h_i - |m_y|)^2: 0 exactly where each h_i is its class's direction.

    Args:
        directions: h of length 1, [N, d'].
        frame: columns m_k, weighted or not, [d', K].
        labels: y, int64 [N].
    """
    own = frame.t()[labels]
    return 0.5 * ((own * directions).sum(1) - own.norm(dim=1)).square().mean()


def branch_distillation(older: Tensor, newer: Tensor) -> Tensor:
    """L_D = sum_i 1/2 (cos(f_{n-2,i}, f_{n-1,i}) - 1)^2, of features [N, d] each."""
    return 0.5 * (F.cosine_similarity(older, newer) - 1).square().sum()
