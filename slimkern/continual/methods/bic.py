"""BiC: bias correction (Wu et al. 2019, Large scale incremental learning)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from slimkern.continual.config import ConfigError
from slimkern.continual.heads import CorrectedHead
from slimkern.continual.methods.method import Batches, Step
from slimkern.continual.methods.teacher import TaughtMethod, distillation
from slimkern.continual.network import ContinualNet
from slimkern.models.resnet import ResNet
from slimkern.width_batch import WidthBatch, every_width
from slimkern.widths import Widths

_PULL = 0.1


@dataclass
class BiC(TaughtMethod):
    """Rehearse exemplars and distil; then correct the new classes' logits on images that were held out.

    Stage 1, at width 1.0: loss = (1 - lambda) * cross-entropy + lambda * distillation, lambda = old / all classes
    (Eqs. 1 to 3). Stage 2, at each width: with all else fixed, alpha * o + beta takes the place of the new classes'
    logits o (Eq. 4) and minimises the cross-entropy over all classes (Eq. 5) + 0.1 * beta^2 / 2, of which the paper
    says nothing and its code tells. Each task's correction stays in later training, the teacher's too, as in FACIL.
    Narrower widths are biased in their own way, so each has its own correction, and stage 1 trains them through it.

    Stage 2 is convex in alpha and beta, and its logits are computed once: each epoch is one step on all of them, by SGD
    with momentum 0.9.

    Args:
        temperature: T, which both softmaxes of the distillation are softened by.
        held_out: share of each class's exemplars that is held out for stage 2; 0.1 in the paper.
        bias_epochs: epochs of stage 2.
        bias_learning_rate: its learning rate.
    """

    needs_exemplars: ClassVar[bool] = True
    temperature: float = 2.0
    held_out: float = 0.1
    bias_epochs: float = 200
    bias_learning_rate: float = 0.1

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ConfigError(f"option temperature={self.temperature} of BiC must be above 0")
        if not 0 < self.held_out < 1:
            raise ConfigError(f"option held_out={self.held_out} of BiC must lie between 0 and 1")
        if self.bias_epochs != int(self.bias_epochs):
            raise ConfigError(f"option bias_epochs={self.bias_epochs} of BiC must be a whole number")

    @property
    def held_out_share(self) -> float:
        """For stage 2."""
        return self.held_out

    def network(self, backbone: ResNet, widths: Widths) -> ContinualNet:
        """A network whose heads can be corrected."""
        return ContinualNet(backbone, widths, CorrectedHead)

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Stage 1."""
        cross_entropy = step.cross_entropy
        if self._teacher is None:
            return {"cross-entropy": cross_entropy}
        with torch.no_grad():
            targets = self._teacher(step.images)
        old = targets.shape[1]
        share = old / step.logits.shape[1]
        return {
            "cross-entropy": (1 - share) * cross_entropy,
            "distillation": share * distillation(step.logits[:, :old], targets, self.temperature),
        }

    def after_selection(self, net: ContinualNet, exemplars: Batches, held_out: Batches) -> None:
        """Stage 2, from the second task on."""
        if len(net.heads) == 1:
            return
        head = net.heads[-1]
        assert isinstance(head, CorrectedHead)
        logits, labels = _logits(net, held_out)
        alpha, beta = (own.clone().requires_grad_() for own in (head.alpha, head.beta))
        optimiser = torch.optim.SGD([alpha, beta], self.bias_learning_rate, momentum=0.9)
        for _ in range(int(self.bias_epochs)):
            optimiser.zero_grad()
            correction_loss(logits, labels, head.out_features, alpha, beta).backward()
            optimiser.step()
        head.alpha.copy_(alpha.detach())
        head.beta.copy_(beta.detach())


def correction_loss(logits: Tensor, labels: Tensor, new: int, alpha: Tensor, beta: Tensor) -> Tensor:
    """What stage 2 minimises, summed over widths.

    Args:
        logits: of each width, [S, N, classes seen]; those of the new classes not corrected yet.
        labels: int64 [N].
        new: number of new classes, the last ones.
        alpha: of each width, [S].
        beta: of each width, [S].
    """
    corrected = logits[..., -new:] * alpha[:, None, None] + beta[:, None, None]
    answers = torch.cat([logits[..., :-new], corrected], -1).transpose(1, 2)
    losses = F.cross_entropy(answers, labels.expand(len(logits), -1), reduction="none").mean(1)
    return (losses + _PULL / 2 * beta.square()).sum()


@torch.no_grad()
def _logits(net: ContinualNet, batches: Batches) -> tuple[Tensor, Tensor]:
    """Logits [S, N, classes seen] and labels int64 [N]."""
    net.eval()
    logits, labels = [], []
    for images, own in batches:
        answers = net(every_width(images))
        assert isinstance(answers, WidthBatch)
        logits.append(torch.stack(answers.slabs))
        labels.append(own)
    return torch.cat(logits, 1), torch.cat(labels)
