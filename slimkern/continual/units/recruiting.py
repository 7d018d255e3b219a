"""Recruiting the nodes of a unit (AutoActivator, Algorithm 1).

The outputs A of the nodes are kept as A = Q R with orthonormal Q. The residual E = Y - A W, W the least squares
read-out, is then E - Q Q'E for a new block of Q, and W = R^-1 Q'Y is solved for once: the same as updating the
pseudo-inverse block by block (Eqs. 8 to 10), and stable.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from slimkern.continual.methods.autoactivator import AutoActivator
from slimkern.continual.units.scan import Nonlinearity, explained, node_outputs, scan
from slimkern.continual.units.unit import Unit, confidence

_LEVELS = 8
_DEPENDENT = 1e-4


@dataclass(frozen=True)
class Samples:
    """Inputs [N, M] and labels int64 [N], counted from the task's first class."""

    inputs: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Recruitment:
    """What one step did.

    Attributes:
        nodes: of the unit afterwards.
        ratio: r at which candidates passed.
        passed: how many of them did.
        residual: squared residual on the training samples, a sample.
        held_out_residual: the same on the held-out samples; None without any.
        accuracy: on the training samples, from 0 to 1.
    """

    nodes: int
    ratio: float
    passed: int
    residual: float
    held_out_residual: float | None
    accuracy: float


class Recruiter:
    """A unit in the making.

    Attributes:
        residual: E, [N, C].
        basis: Q, [N, L].
        history: the steps so far.
    """

    def __init__(
        self, train: Samples, held_out: Samples, classes: range, rules: AutoActivator, nonlinearity: Nonlinearity
    ) -> None:
        self._train, self._held_out, self._classes = train, held_out, classes
        self._rules, self._nonlinearity = rules, nonlinearity
        self._targets, self._held_out_targets = (
            F.one_hot(own.labels, len(classes)).to(own.inputs.dtype) for own in (train, held_out)
        )
        self.residual = self._targets
        self.basis = train.inputs.new_zeros(len(train.inputs), 0)
        self._triangle = train.inputs.new_zeros(0, 0)
        self._weights = train.inputs.new_zeros(0, train.inputs.shape[1])
        self._biases = train.inputs.new_zeros(0)
        self.history: list[Recruitment] = []

    def recruit(self) -> bool:
        """Draw candidates, and take the nodes of the best one that passes.

        Random numbers come from torch's global generator.

        Returns:
            Whether one did.
        """
        rules, inputs = self._rules, self._train.inputs
        shape = (int(rules.candidates), int(rules.nodes), inputs.shape[1])
        weights = (torch.rand(shape, dtype=inputs.dtype, device=inputs.device) * 2 - 1) * rules.scale / shape[-1] ** 0.5
        biases = (torch.rand(shape[:2], dtype=inputs.dtype, device=inputs.device) * 2 - 1) * rules.scale
        against = torch.cat([self.residual, self.basis], 1)
        grams, crosses = scan(inputs, against, weights, biases, self._nonlinearity)
        crosses, inside = crosses.split([len(self._classes), self.basis.shape[1]], 2)
        drops, falls = explained(grams, crosses), explained(grams, crosses, inside)
        lengths = self.residual.double().square().sum(0)
        passing = choose(drops, falls.sum(1), lengths, len(self._biases) + shape[1], rules.ratio)
        if passing is None:
            return False
        best, ratio, passed = passing
        if not self._add(weights[best], biases[best]):
            return False
        self._note(ratio, passed)
        return True

    def done(self) -> bool:
        """Whether the unit is full or good enough, or has long not become better on the held-out samples."""
        if not self.history:
            return False
        held_out = [step.held_out_residual for step in self.history if step.held_out_residual is not None]
        stale = bool(held_out) and len(held_out) - held_out.index(min(held_out)) > self._rules.patience
        most = min(int(self._rules.limit), len(self._train.labels))
        full = len(self._biases) + int(self._rules.nodes) > most
        return full or stale or self.history[-1].accuracy >= self._rules.target

    def unit(self) -> Unit:
        """The unit at the smallest held-out residual, or without held-out samples as it is."""
        count = len(self._biases)
        if self.history and self.history[-1].held_out_residual is not None:
            count = min(self.history, key=lambda step: step.held_out_residual or 0.0).nodes
        outputs = self.basis[:, :count] @ (self.basis[:, :count].t() @ self._targets)
        threshold = float(confidence(outputs).mean())
        nodes = self._weights[:count].clone(), self._biases[:count].clone()
        return Unit(*nodes, self._read_out(count), self._classes.start, threshold)

    def _add(self, weights: Tensor, biases: Tensor) -> bool:
        """Take nodes in, less those that depend on the others; whether any was left."""
        outputs = node_outputs(weights, biases, self._train.inputs, self._nonlinearity).t()
        while outputs.shape[1]:
            inside = self.basis.t() @ outputs
            outside = outputs - self.basis @ inside
            # Once more, as rounding leaves a part of the order of what was taken away.
            again = self.basis.t() @ outside
            own, triangle = torch.linalg.qr(outside - self.basis @ again)
            kept = triangle.diagonal().abs() > _DEPENDENT * outputs.norm(dim=0)
            if kept.all():
                break
            outputs, weights, biases = outputs[:, kept], weights[kept], biases[kept]
        else:
            return False
        left = torch.cat([self._triangle, self._triangle.new_zeros(len(triangle), len(self._triangle))])
        self._triangle = torch.cat([left, torch.cat([inside + again, triangle])], 1)
        self.basis = torch.cat([self.basis, own], 1)
        self.residual = self.residual - own @ (own.t() @ self.residual)
        self._weights, self._biases = torch.cat([self._weights, weights]), torch.cat([self._biases, biases])
        return True

    def _read_out(self, count: int) -> Tensor:
        projections = self.basis[:, :count].t() @ self._targets
        return torch.linalg.solve_triangular(self._triangle[:count, :count], projections, upper=True)

    def _note(self, ratio: float, passed: int) -> None:
        count, held_out = len(self._biases), None
        if len(self._held_out.labels):
            outputs = node_outputs(self._weights, self._biases, self._held_out.inputs, self._nonlinearity).t()
            wrong = outputs @ self._read_out(count) - self._held_out_targets
            held_out = float(wrong.square().sum() / len(wrong))
        answers = (self._targets - self.residual).argmax(1)
        residual = float(self.residual.square().sum() / len(self.residual))
        accuracy = float((answers == self._train.labels).double().mean())
        self.history.append(Recruitment(count, ratio, passed, residual, held_out, accuracy))


def choose(drops: Tensor, falls: Tensor, lengths: Tensor, nodes: int, ratio: float) -> tuple[int, float, int] | None:
    """The candidate by which the residual falls most, among those whose indicator xi is positive for every class.

    xi_c = drop_c - (1 - r - mu) |e_c|^2 with mu = (1 - r) / (L + 1) (Eqs. 7 and 15). Where none passes at r, 0.9 say, r
    = 0.99, 0.999 ... are tried on the same candidates.

    Args:
        drops: what each explains of each class by itself, [T, C].
        falls: what it explains together with the nodes that are there, [T].
        lengths: squared residual of each class, [C].
        nodes: L, those of the unit with the candidate's.
        ratio: the first r.

    Returns:
        Its number, the r at which it passed, and how many did; None if none passes at any.
    """
    for level in range(_LEVELS):
        slack = (1 - ratio) * 0.1**level
        passes = (drops - slack * nodes / (nodes + 1) * lengths > 0).all(1)
        if passes.any():
            best = falls.masked_fill(~passes, -torch.inf).argmax()
            return int(best), 1 - slack, int(passes.sum())
    return None
