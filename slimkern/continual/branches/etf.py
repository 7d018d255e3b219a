"""The classifier of SCL-PNC: an adapt layer, and fixed directions that are as far apart as can be."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SLOPE, _EPS_NORM, _SHORTEST = 0.1, 1e-6, 1e-8


def equiangular_frame(features: int, columns: int) -> Tensor:
    """A random simplex equiangular tight frame: M = sqrt(K / (K - 1)) P (I - 11'/K), float32 [features, columns].

    P has orthonormal columns, those of the Q factor of a matrix of uniform numbers from torch's global generator.
    Columns of M have length 1, and each two of them the cosine -1 / (K - 1).

    Args:
        features: d', at least K.
        columns: K, at least 2.

    Raises:
        ValueError: there are no such frames.
    """
    if not 2 <= columns <= features:
        raise ValueError(f"an equiangular frame of {columns} columns needs 2 to {features} of them, its features")
    directions = torch.linalg.qr(torch.rand(features, columns, dtype=torch.float64)).Q
    centred = directions - directions.mean(1, keepdim=True)
    return ((columns / (columns - 1)) ** 0.5 * centred).float()


class AdaptLayer(nn.Module):
    """The neck: u = S f + W3 phi(LN(W2 phi(LN(W1 f + b1)) + b2)) + b3, [N, d] to [N, 2 d].

    phi is a leaky ReLU of slope 0.1, hidden layers have 4 d features, and S has no bias.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        hidden = 4 * features
        self.first, self.second = nn.Linear(features, hidden), nn.Linear(hidden, hidden)
        self.norm1, self.norm2 = (nn.LayerNorm(hidden, eps=_EPS_NORM) for _ in range(2))
        self.last = nn.Linear(hidden, 2 * features)
        self.skip = nn.Linear(features, 2 * features, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Fused features to what the head takes."""
        inner = F.leaky_relu(self.norm1(self.first(features)), _SLOPE)
        inner = F.leaky_relu(self.norm2(self.second(inner)), _SLOPE)
        return self.skip(features) + self.last(inner)


class EquiangularHead(nn.Module):
    """h = v / max(|v|, 1e-8) with v a batch norm of the neck's output; logits are h'M.

    The frame M, [d', K], is a buffer: it is drawn once and never learned.
    """

    frame: Tensor

    def __init__(self, features: int, columns: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(features)
        self.register_buffer("frame", equiangular_frame(features, columns))

    def directions(self, adapted: Tensor) -> Tensor:
        """The neck's output [N, d'] to directions h of length 1."""
        return F.normalize(self.norm(adapted), eps=_SHORTEST)

    def forward(self, adapted: Tensor) -> Tensor:
        """The neck's output [N, d'] to logits [N, K]."""
        return self.directions(adapted) @ self.frame


class Classifier(nn.Module):
    """An adapt layer and an equiangular head: features [N, d] to logits [N, columns].

    Raises:
        ValueError: as `equiangular_frame`.
    """

    def __init__(self, features: int, columns: int) -> None:
        super().__init__()
        self.neck = AdaptLayer(features)
        self.head = EquiangularHead(2 * features, columns)

    def directions(self, features: Tensor) -> Tensor:
        """Features [N, d] to directions h [N, d'] of length 1."""
        return self.head.directions(self.neck(features))

    def forward(self, features: Tensor) -> Tensor:
        """Features [N, d] to logits [N, columns]."""
        return self.head(self.neck(features))
