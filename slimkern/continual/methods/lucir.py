"""LUCIR: learning a unified classifier incrementally via rebalancing (Hou et al. 2019)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimkern.continual.config import ConfigError
from slimkern.continual.heads import CosineHead, Scale
from slimkern.continual.methods.method import Step
from slimkern.continual.methods.teacher import TaughtMethod
from slimkern.continual.network import ContinualNet
from slimkern.models.resnet import ResNet
from slimkern.widths import Widths


@dataclass
class LUCIR(TaughtMethod):
    """Rehearse exemplars with cosine heads, keep the features' directions, and part old classes from new ones.

    loss = cross-entropy of eta * cosine (Eq. 4) + strength * sqrt(old / new classes) * less-forget (Eqs. 6 and 7)
    + margin_strength * margin ranking (Eq. 8), together Eq. 9, at width 1.0; narrower widths have cosines of their own
    features, with the same eta. The last ReLU is left out, so that features have both signs (the paper's section 4.1);
    heads of old classes stay as they are, as in its code.

    Less-forget compares features of the old and the new network stored channel by stored channel. Between two tasks the
    ranking scrolls and the weights stay, so a feature keeps its channel and loses its position: by position it would be
    held close to another feature.

    FACIL, which the ScrollNet paper trained with, removes the ReLU only from networks of a class named ResNet, and then
    the one after the third stage. ScrollNet's networks have another name, so the paper's figures probably stand for
    features without negative values; torchvision's ResNet-18 would lose a ReLU that isn't the last. FACIL also clips no
    gradient in LUCIR; here --clip holds for all methods.

    Args:
        strength: lambda_base in Eq. 7, before it adapts to the numbers of classes.
        margin_strength: weight of the margin ranking.
        margin: m in Eq. 8.
        hard_negatives: K in Eq. 8, the new classes that an old class's image resembles most.
    """

    needs_exemplars: ClassVar[bool] = True
    strength: float = 5.0
    margin_strength: float = 1.0
    margin: float = 0.5
    hard_negatives: float = 2

    def __post_init__(self) -> None:
        if self.hard_negatives != int(self.hard_negatives) or self.hard_negatives < 1:
            raise ConfigError(f"option hard_negatives={self.hard_negatives} of LUCIR must be a whole number above 0")

    def network(self, backbone: ResNet, widths: Widths) -> ContinualNet:
        """Signed features, cosine heads and one factor for all of them."""
        backbone.keep_signs()
        return ContinualNet(backbone, widths, CosineHead, Scale())

    def frozen(self, net: ContinualNet, rehearsing: bool) -> Sequence[nn.Module]:
        """Old heads; the factor is learned on."""
        return list(net.heads[:-1])

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Cross-entropy, and from the second task on less-forget and margin ranking."""
        parts = {"cross-entropy": step.cross_entropy}
        teacher = self._teacher
        if teacher is None:
            return parts
        with torch.no_grad():
            before = teacher.by_channel(teacher.backbone(step.images))
        old = teacher.classes
        weight = self.strength * math.sqrt(old / (step.logits.shape[1] - old))
        parts["less-forget"] = weight * less_forget(step.net.by_channel(step.features), before)
        cosines = step.logits / cast(Scale, step.net.scale).factor
        ranking = margin_ranking(cosines, step.labels, old, self.margin, int(self.hard_negatives))
        parts["margin ranking"] = self.margin_strength * ranking
        return parts


def less_forget(features: Tensor, before: Tensor) -> Tensor:
    """1 - the cosine of new and old features, [N, C] each in one order of channels, mean over the batch (Eq. 6)."""
    return (1 - F.cosine_similarity(features, before)).mean()


def margin_ranking(cosines: Tensor, labels: Tensor, old: int, margin: float, hard_negatives: int) -> Tensor:
    """How far an old class's image is from being `margin` closer to its own class than to the new ones (Eq. 8).

    The mean of max(0, margin - own cosine + cosine of a new class) over images of old classes and, for each, the new
    classes of the largest cosines; 0 without such images. The paper sums over these; FACIL takes the mean, and so do
    we.

    Args:
        cosines: [N, classes seen].
        labels: int64 [N].
        old: number of old classes, the first ones.
        margin: m in Eq. 8.
        hard_negatives: K in Eq. 8; all new classes where they are fewer.
    """
    own = cosines.gather(1, labels[:, None])
    nearest = cosines[:, old:].topk(min(hard_negatives, cosines.shape[1] - old)).values
    # Masked, not selected, so that a device needn't tell the host how many there are.
    is_old = (labels < old).to(cosines.dtype)
    return (F.relu(margin - own + nearest).mean(1) * is_old).sum() / is_old.sum().clamp(min=1)
