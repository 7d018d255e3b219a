"""Which images of a class to keep as exemplars."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

SelectionName = Literal["herding", "random", "entropy", "distance"]


def select(rule: SelectionName, features: Tensor, logits: Tensor, label: int, count: int) -> Tensor:
    """Choose images of one class.

    herding: images whose mean feature stays close to the class's (iCaRL, Algorithm 4).
    random: any.
    entropy: those whose class the network is least sure of, by the entropy of its softmax over all classes seen.
    distance: those nearest the decision boundary, by the smallest logit of their own class. Both after Chaudhry et al.
    2018, Riemannian Walk, section 4.2.

    Args:
        rule: how.
        features: of all candidates, [N, C].
        logits: of all candidates, [N, classes seen].
        label: their class.
        count: how many to choose, at most N.

    Returns:
        int64 [count], distinct places among the candidates, the first choice first.

    Raises:
        ValueError: no such rule, or more images wanted than there are.
    """
    if not 0 <= count <= len(features):
        raise ValueError(f"{count} of {len(features)} images can't be chosen")
    match rule:
        case "herding":
            return herding(features, count)
        case "random":
            return torch.randperm(len(features), device=features.device)[:count]
        case "entropy":
            return (
                torch.distributions.Categorical(logits=logits).entropy().argsort(descending=True, stable=True)[:count]
            )
        case "distance":
            return logits[:, label].argsort(stable=True)[:count]
    raise ValueError(f"unknown selection {rule!r}; allowed: {', '.join(get_args(SelectionName))}")


def herding(features: Tensor, count: int) -> Tensor:
    """Choose one after the other the image that brings the mean of the chosen closest to the mean of all.

    The k-th choice is argmin_i || mean - (sum of the chosen + f_i) / k || over images not yet chosen, f_i of norm 1
    (iCaRL, Algorithm 4). With r = k * mean - sum of the chosen this is argmin_i |f_i|^2 - 2 <f_i, r>: one product of a
    matrix and a vector a choice.

    Args:
        features: [N, C].
        count: at most N.

    Returns:
        int64 [count], in the order of choice.
    """
    features = F.normalize(features)
    mean = features.mean(0)
    missing, lengths = mean.clone(), features.square().sum(1)
    chosen = [torch.empty(0, dtype=torch.int64, device=features.device)]
    for _ in range(count):
        pick = torch.addmv(lengths, features, missing, alpha=-2).argmin(keepdim=True)
        lengths.index_fill_(0, pick, torch.inf)
        missing += mean - features[pick].squeeze(0)
        chosen.append(pick)
    return torch.cat(chosen)
