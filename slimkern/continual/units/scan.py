"""Scanning candidate nodes in one pass over the samples."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Nonlinearity = Callable[[Tensor], Tensor]
NONLINEARITIES: dict[str, Nonlinearity] = {"sigmoid": torch.sigmoid, "relu": torch.relu, "tanh": torch.tanh}
_SAMPLES = 1024


def node_outputs(weights: Tensor, biases: Tensor, inputs: Tensor, nonlinearity: Nonlinearity) -> Tensor:
    """Outputs of nodes: weights [L, M], biases [L] and inputs [N, M] give [L, N]."""
    return nonlinearity(torch.addmm(biases[:, None], weights, inputs.t()))


def scan(
    inputs: Tensor, against: Tensor, weights: Tensor, biases: Tensor, nonlinearity: Nonlinearity
) -> tuple[Tensor, Tensor]:
    """What the choice among candidates needs of their outputs G_k [N, l]: Gram matrices and cross products.

    The samples are cut into pieces. Each gives the outputs of all candidates by one matrix product, which are reduced
    and forgotten: memory grows with neither samples times candidates, nor does any loop run over candidates.

    Args:
        inputs: X, [N, M].
        against: what to take products with, [N, D].
        weights: of the candidates, [T, l, M].
        biases: [T, l].
        nonlinearity: of the nodes.

    Returns:
        G_k' G_k [T, l, l], and G_k' times `against` [T, l, D].
    """
    candidates, nodes, width = weights.shape
    rows, shifts = weights.reshape(-1, width), biases.reshape(-1)
    grams = inputs.new_zeros(candidates, nodes, nodes)
    crosses = inputs.new_zeros(candidates * nodes, against.shape[1])
    for own_inputs, own_against in zip(inputs.split(_SAMPLES), against.split(_SAMPLES), strict=True):
        outputs = node_outputs(rows, shifts, own_inputs, nonlinearity)
        crosses.addmm_(outputs, own_against)
        by_candidate = outputs.view(candidates, nodes, -1)
        grams.baddbmm_(by_candidate, by_candidate.transpose(1, 2))
    return grams, crosses.view(candidates, nodes, -1)


def explained(grams: Tensor, crosses: Tensor, inside: Tensor | None = None) -> Tensor:
    """How much of each class's squared residual candidates explain, float64 [T, C].

    By themselves this is <e_c, G beta_c> with beta_c = (G'G)^+ G'e_c (AutoActivator, Eqs. 4 to 6): the squared length
    of the projection of e_c on the span of G, for which G'G and G'E are enough. Together with nodes whose outputs have
    the orthonormal basis Q, it is the same of G - QQ'G, and never less: the fall of the residual once G is taken in.

    Args:
        grams: G'G, [T, l, l].
        crosses: G'E, [T, l, C], with E orthogonal to Q.
        inside: G'Q, [T, l, L]; None for candidates by themselves.
    """
    own = grams.double()
    smallest = torch.linalg.matrix_norm(own) * (30 * torch.finfo(grams.dtype).eps)
    if inside is not None:
        own = own - inside.double() @ inside.double().transpose(1, 2)
    values, vectors = torch.linalg.eigh(own)
    rotated = vectors.transpose(1, 2) @ crosses.double()
    # Directions that the sums' precision can't tell from none are left out, as a pseudo-inverse does.
    known = values > smallest[:, None]
    inverse = torch.where(known, values, 1).reciprocal() * known
    return (rotated.square() * inverse[:, :, None]).sum(1)
