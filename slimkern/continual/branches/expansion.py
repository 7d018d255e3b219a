"""When the present branches suffice for a new task (`--expand demand`)."""

from __future__ import annotations

import torch
from torch import Tensor

from slimkern.continual.branches.etf import Classifier
from slimkern.continual.branches.network import BranchNet
from slimkern.continual.config import TrainConfig
from slimkern.continual.data import ImageSet
from slimkern.continual.evaluation import Normalise, plain_batches
from slimkern.continual.methods.scl_pnc import SCLPNC
from slimkern.continual.optimiser import Optimiser


def reached_accuracy(
    net: BranchNet,
    images: ImageSet,
    new: range,
    columns: int,
    method: SCLPNC,
    config: TrainConfig,
    normalise: Normalise,
) -> float:
    """What a new neck and head reach on the new classes, on the frozen features of the branches that there are.

    Their features are computed once, without augmentation. The classifier is then trained as a task is, without
    distillation and at the task's first learning rate, and asked among all its columns. Random numbers come from
    torch's global generator.

    Args:
        net: with at least one branch; left as it is, in evaluation mode.
        images: what the task is learned from: the new classes' images and the exemplars.
        new: labels of the new classes.
        columns: K of the new frame.
        method: says how long it is trained, and the loss.
        config: batch size, rate, momentum, decay and clipping.
        normalise: uint8 images to the network's input.

    Returns:
        The accuracy on the new classes' images, from 0 to 1.
    """
    features = _features(net.eval(), images, normalise)
    device = features.device
    classifier = Classifier(net.backbone.width, columns).to(device)
    neck, norm = list(classifier.neck.parameters()), list(classifier.head.norm.parameters())
    optimiser = Optimiser([*neck, *norm], config, clipped=[norm, neck])
    for _ in range(int(method.probe_epochs)):
        for chosen in torch.randperm(len(images), device=device).split(config.batch_size):
            if len(chosen) < 2:  # too few for batch norm
                continue
            directions = classifier.directions(features[chosen])
            parts = method.parts(directions, classifier.head.frame, images.labels[chosen], ())
            optimiser.step(torch.stack(list(parts.values())).sum())
    own = (images.labels >= new.start) & (images.labels < new.stop)
    with torch.no_grad():
        answers = classifier.eval()(features[own]).argmax(1)
    return float((answers == images.labels[own]).float().mean())


@torch.no_grad()
def _features(net: BranchNet, images: ImageSet, normalise: Normalise) -> Tensor:
    return torch.cat([net.fused(net.backbone(batch)) for batch, _ in plain_batches(images, normalise)])
