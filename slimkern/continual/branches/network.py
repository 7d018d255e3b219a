"""The network of SCL-PNC: a base layer, branches that all read it, and the newest classifier."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from slimkern.continual.branches.etf import Classifier
from slimkern.continual.branches.grouped import base_maps, grouped
from slimkern.models.branching_resnet import BaseLayer, ExpandLayer


class Branches(nn.Module):
    """A base layer and parallel branches: images [N, C, H, W] to the features of all branches side by side [N, n * d].

    Attributes:
        base: what all branches read.
        branches: one expand layer each, the oldest first.
        width: d, features of one branch.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.base = BaseLayer(in_channels, channels)
        self.branches = nn.ModuleList()
        self.width = 2 * self.base.channels

    def expand(self) -> None:
        """Add a branch: a copy of the newest one, its batch-norm statistics included, or the first one."""
        newest = self.layers()[-1:]
        branch = copy.deepcopy(newest[0]) if newest else ExpandLayer(self.base.channels)
        branch = branch.requires_grad_(True).to(next(self.base.parameters()))
        self.branches.append(branch.to(memory_format=torch.channels_last))

    def layers(self) -> list[ExpandLayer]:
        """The branches."""
        return cast(list[ExpandLayer], list(self.branches))

    def each(self, images: Tensor) -> list[Tensor]:
        """Images to the features [N, d] of each branch."""
        return grouped(self.layers(), base_maps(self.base, images))

    def forward(self, images: Tensor) -> Tensor:
        """Images to the features of all branches, side by side."""
        return torch.cat(self.each(images), 1)


class BranchNet(nn.Module):
    """Branches fused to their mean, and one classifier for all classes seen, made anew in each task.

    Attributes:
        backbone: the branches.
        classifiers: the newest classifier; empty before the first task.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.backbone = Branches(in_channels, channels)
        self.classifiers = nn.ModuleList()

    def expand(self) -> None:
        """Add a branch."""
        self.backbone.expand()

    def renew(self, columns: int) -> None:
        """Put a new neck and head of so many columns in place of the old ones.

        Raises:
            ValueError: as `equiangular_frame`.
        """
        classifier = Classifier(self.backbone.width, columns)
        self.classifiers = nn.ModuleList([classifier.to(next(self.backbone.parameters()))])

    @property
    def classifier(self) -> Classifier:
        """The newest one."""
        return cast(Classifier, self.classifiers[-1])

    def growth(self) -> list[int]:
        """What `grow_to` needs to build a network of the same shape: branches, and columns if there is a classifier."""
        return [len(self.backbone.branches), *(own.head.frame.shape[1] for own in map(_classifier, self.classifiers))]

    def grow_to(self, growth: Sequence[int]) -> None:
        """Give a fresh network the shape that another had; its weights are any."""
        for _ in range(growth[0]):
            self.expand()
        for columns in growth[1:]:
            self.renew(columns)

    def fused(self, features: Tensor) -> Tensor:
        """Features side by side [N, n * d] to their mean over branches [N, d]."""
        return features.unflatten(1, (-1, self.backbone.width)).mean(1)

    def classify(self, features: Tensor) -> Tensor:
        """Features side by side [N, n * d] to logits [N, K]."""
        return self.classifier(self.fused(features))

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, C, H, W] to logits [N, K]."""
        return self.classify(self.backbone(images))


def _classifier(module: nn.Module) -> Classifier:
    return cast(Classifier, module)
