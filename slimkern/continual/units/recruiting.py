"""Recruiting the nodes of a unit (AutoActivator, Algorithm 1).

The outputs A of the nodes are kept as A = Q R with orthonormal Q. The residual E = Y - A W, W the least squares
read-out, is then E - Q Q'E for a new block of Q, and W = R^-1 Q'Y is solved for once: the same as updating the
pseudo-inverse block by block (Eqs. 8 to 10), and stable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from slimkern.continual.config import ConfigError
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
        ratio: r at which candidates passed; 1 where none did, and the best one was taken to have any.
        passed: how many of them did.
        draws: how often candidates were drawn for it.
        residual: squared residual on the training samples, a sample.
        held_out_residual: the same on the held-out samples; None without any.
        accuracy: on the training samples, from 0 to 1.
    """

    nodes: int
    ratio: float
    passed: int
    draws: int
    residual: float
    held_out_residual: float | None
    accuracy: float


class Recruiter:
    """A unit in the making.

    Attributes:
        residual: E, [N, C].
        basis: Q, [N, L].
        history: the steps so far.

    Args:
        train: the task's training samples.
        held_out: those that tell when to stop; may be none.
        classes: of the task.
        rules: how nodes are recruited.
        nonlinearity: of the nodes.
        earlier: units whose nodes may be copied, where the rules ask for copies.
    """

    def __init__(
        self,
        train: Samples,
        held_out: Samples,
        classes: range,
        rules: AutoActivator,
        nonlinearity: Nonlinearity,
        earlier: Sequence[Unit] = (),
    ) -> None:
        self._train, self._held_out, self._classes = train, held_out, classes
        self._rules, self._nonlinearity, self._earlier = rules, nonlinearity, earlier
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

        Where none does they are drawn anew, `draws` times in all. A unit that would stay empty takes the best one of
        the last draw all the same. Random numbers come from torch's global generator.

        Returns:
            Whether nodes were taken.

        Raises:
            ConfigError: no candidate of an empty unit explains anything at all.
        """
        lengths = self.residual.double().square().sum(0)
        # A class that is learned to the last digit has nothing left that a candidate could explain.
        left = lengths > torch.finfo(self.residual.dtype).eps * self._targets.double().square().sum(0)
        for draw in range(1, int(self._rules.draws) + 1):
            weights, biases = self._candidates()
            drops, scores = self._scanned(weights, biases)
            count = len(self._biases) + int(self._rules.nodes)
            found = choose(drops[:, left], scores, lengths[left], count, self._rules.ratio)
            if found is not None and self._add(weights[found[0]], biases[found[0]]):
                self._note(*found[1:], draw)
                return True
        if self.history:
            return False
        best = int(scores.argmax())
        if not self._add(weights[best], biases[best]):
            raise ConfigError(
                f"classes {self._classes.start} to {self._classes.stop - 1}: no node of {draw} draws explains anything "
                "of them; try another nonlinearity or scale, or look at what the features give"
            )
        self._note(1.0, 0, draw)
        return True

    def ended(self) -> str | None:
        """Why no more nodes are wanted: the limit, the target or the held-out samples; None while they are."""
        if not self.history:
            return None
        held_out = [step.held_out_residual for step in self.history if step.held_out_residual is not None]
        if self.history[-1].accuracy >= self._rules.target:
            return "target"
        if len(self._biases) + int(self._rules.nodes) > min(int(self._rules.limit), len(self._train.labels)):
            return "limit"
        stale = bool(held_out) and len(held_out) - held_out.index(min(held_out)) > self._rules.patience
        return "held-out samples" if stale else None

    def unit(self) -> Unit:
        """The unit at the smallest held-out residual, or without held-out samples as it is."""
        count = len(self._biases)
        if self.history and self.history[-1].held_out_residual is not None:
            count = min(self.history, key=lambda step: step.held_out_residual or 0.0).nodes
        outputs = self.basis[:, :count] @ (self.basis[:, :count].t() @ self._targets)
        threshold = float(confidence(outputs).mean())
        nodes = self._weights[:count].clone(), self._biases[:count].clone()
        return Unit(*nodes, self._read_out(count), self._classes.start, threshold)

    def _candidates(self) -> tuple[Tensor, Tensor]:
        """Weights [T, l, M] and biases [T, l], the first of them copies where the rules ask for some."""
        rules, inputs = self._rules, self._train.inputs
        like = {"dtype": inputs.dtype, "device": inputs.device}
        shape = (int(rules.candidates), int(rules.nodes), inputs.shape[1])
        weights = (torch.rand(shape, **like) * 2 - 1) * rules.scale / shape[-1] ** 0.5
        biases = (torch.rand(shape[:2], **like) * 2 - 1) * rules.scale
        if sum(len(unit.biases) for unit in self._earlier) >= shape[1]:
            known = torch.cat([unit.weights for unit in self._earlier]), torch.cat([u.biases for u in self._earlier])
            for copy in range(int(rules.copies)):
                chosen = torch.randperm(len(known[1]), device=inputs.device)[: shape[1]]
                weights[copy], biases[copy] = known[0][chosen], known[1][chosen]
        return weights, biases

    def _scanned(self, weights: Tensor, biases: Tensor) -> tuple[Tensor, Tensor]:
        """What each candidate explains of each class by itself [T, C], and its score [T]."""
        against = torch.cat([self.residual, self.basis], 1)
        grams, crosses = scan(self._train.inputs, against, weights, biases, self._nonlinearity)
        crosses, inside = crosses.split([len(self._classes), self.basis.shape[1]], 2)
        drops = explained(grams, crosses)
        # xi is the drop less the same for all candidates, so its order is that of the drops.
        return drops, (explained(grams, crosses, inside) if self._rules.true_fall else drops).sum(1)

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

    def _note(self, ratio: float, passed: int, draws: int) -> None:
        count, held_out = len(self._biases), None
        if len(self._held_out.labels):
            outputs = node_outputs(self._weights, self._biases, self._held_out.inputs, self._nonlinearity).t()
            wrong = outputs @ self._read_out(count) - self._held_out_targets
            held_out = float(wrong.square().sum() / len(wrong))
        answers = (self._targets - self.residual).argmax(1)
        residual = float(self.residual.square().sum() / len(self.residual))
        accuracy = float((answers == self._train.labels).double().mean())
        self.history.append(Recruitment(count, ratio, passed, draws, residual, held_out, accuracy))


def choose(drops: Tensor, scores: Tensor, lengths: Tensor, nodes: int, ratio: float) -> tuple[int, float, int] | None:
    """The candidate with the highest score, among those whose indicator xi is positive for every class.

    xi_c = drop_c - (1 - r - mu) |e_c|^2 with mu = (1 - r) / (L + 1) (Eqs. 7 and 15). Where none passes at r, 0.9 say, r
    = 0.99, 0.999 ... are tried on the same candidates.

    Args:
        drops: what each explains of each class by itself, [T, C]. Without classes, nothing is left to explain.
        scores: how good each is, [T].
        lengths: squared residual of each class, [C].
        nodes: L, those of the unit with the candidate's.
        ratio: the first r.

    Returns:
        Its number, the r at which it passed, and how many did; None if none passes at any.
    """
    if not len(lengths):
        return None
    for level in range(_LEVELS):
        slack = (1 - ratio) * 0.1**level
        passes = (drops - slack * nodes / (nodes + 1) * lengths > 0).all(1)
        if passes.any():
            best = scores.masked_fill(~passes, -torch.inf).argmax()
            return int(best), 1 - slack, int(passes.sum())
    return None
