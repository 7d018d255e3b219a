"""The run of SCL-PNC: a branch a task, or on demand, and a classifier that each task makes anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import nn

from slimkern.captured_step import CapturedStep
from slimkern.continual.branches.expansion import reached_accuracy
from slimkern.continual.branches.network import BranchNet
from slimkern.continual.branches.step import BranchStep
from slimkern.continual.config import ConfigError, TrainConfig
from slimkern.continual.data import Dataset, ImageSet
from slimkern.continual.evaluation import count_correct
from slimkern.continual.exemplars import Budget
from slimkern.continual.loss_ring import LossRing
from slimkern.continual.methods.scl_pnc import SCLPNC
from slimkern.continual.network import ContinualNet
from slimkern.continual.precision import autocast
from slimkern.continual.recorder import EpochSummary, Recorder
from slimkern.continual.seeding import seed_for
from slimkern.continual.tasks import Task
from slimkern.continual.training import State, Trainer

_PROBE, _GROWTH = 6, 7  # after the trainer's own places
_TESTED_EVERY = 5


class BranchTrainer(Trainer):
    """A trainer whose network grows branches instead of heads.

    In the first task all of the network learns. Later the base layer and the older branches are frozen; where a task
    adds no branch, all of them are, and only the new neck and head learn. Frozen parts are in evaluation mode, so they
    stay as they are to the bit; under `protocol="released"` they are in training mode, and their statistics drift.

    Raises:
        ConfigError: frames of more columns than the neck has outputs, or of fewer than there are classes.
    """

    def __init__(self, config: TrainConfig, dataset: Dataset, device: torch.device, **placement: Any) -> None:
        super().__init__(config, dataset, device, **placement)
        self._released = config.protocol == "released"
        self._columns = self._method.columns_of([task.classes.stop for task in self.tasks], self._released)
        outputs = 2 * self._branches.backbone.width
        if max(self._columns) > outputs:
            raise ConfigError(
                f"channels={config.channels} give a neck of {outputs} outputs, too few for a frame of "
                f"{max(self._columns)} columns: give more channels, or fewer columns as an option"
            )
        self._learning = True
        self._best: dict[str, float] | None = None

    def state_dict(self) -> State:
        """As of any trainer, and whether the newest branch is still learning."""
        return {**super().state_dict(), "branches": {"learning": self._learning, "best": self._best}}

    def load_state_dict(self, state: State) -> None:
        """Go on from a state given by `state_dict` under the same configuration."""
        self._learning, self._best = state["branches"]["learning"], state["branches"]["best"]
        super().load_state_dict(state)

    @property
    def _branches(self) -> BranchNet:
        return cast(BranchNet, self.net)

    @property
    def _method(self) -> SCLPNC:
        return cast(SCLPNC, self.method)

    def _network(self, in_channels: int) -> ContinualNet:
        # What the loop asks of a network, this one answers as well.
        return cast(ContinualNet, BranchNet(in_channels, self.config.channels))

    def _budget(self) -> Budget:
        return Budget(self.config.exemplars, self.config.exemplars_per_class)

    def _grow(self, task: Task, recorder: Recorder) -> None:
        reached = self._reached(task)
        seed_for(self.config.seed, _GROWTH, task.index)
        self._best = None
        self._learning = reached is None or reached < self._method.target
        if self._learning:
            self._branches.expand()
        self._branches.renew(self._columns[task.index])
        branches = len(self._branches.backbone.branches)
        facts = {"task": task.index, "branches": branches, "columns": self._columns[task.index], "reached": reached}
        recorder.noted("grown", facts)

    def _reached(self, task: Task) -> float | None:
        """The accuracy that makes a new branch unnecessary if it is high enough; None where one is added anyway."""
        if task.index == 0 or self.config.expand == "always":
            return None
        seed_for(self.config.seed, _PROBE, task.index)
        images, columns = self._training_images(task), self._columns[task.index]
        return reached_accuracy(
            self._branches, images, task.classes, columns, self._method, self.config, self.augmentation.normalise
        )

    def _growth(self) -> list[int]:
        return self._branches.growth()

    def _grow_to(self, growth: list[int]) -> None:
        self._branches.grow_to(growth)

    def _frozen(self) -> Sequence[nn.Module]:
        backbone = self._branches.backbone
        if self.task == 0:
            return []
        return [backbone.base, *(backbone.layers()[:-1] if self._learning else backbone.layers())]

    def _clipped(self, learned: list[nn.Parameter]) -> list[list[nn.Parameter]]:
        classifier = self._branches.classifier
        parts = (self._branches.backbone, classifier.head.norm, classifier.neck)
        groups = [[own for own in part.parameters() if own.requires_grad] for part in parts]
        return [group for group in groups if group]

    def _set_modes(self) -> None:
        if self._released:
            self.net.train()
        else:
            super()._set_modes()

    def _step(self, task: Task, losses: LossRing) -> Callable[..., None]:
        return BranchStep(
            self._branches,
            self._method,
            self.optimiser,
            self.augmentation,
            self.config.precision,
            losses,
            summed=self._released,
        )

    def _kinds_of_steps(self, task: Task, steps: int) -> list[dict[str, Any]]:
        early = self.epoch < round(self._method.distilled * self.config.epochs)
        comparable = self._learning and len(self._branches.backbone.branches) > 1
        return [{"distil": early and comparable}] * steps

    def _train_epoch(
        self, task: Task, data: ImageSet, step: CapturedStep, ring: LossRing, recorder: Recorder
    ) -> EpochSummary:
        summary = super()._train_epoch(task, data, step, ring, recorder)
        last = self.epoch + 1 == self.config.epochs
        if self.config.best_on_test and (last or (self.epoch + 1) % _TESTED_EVERY == 0):
            accuracy = self._tested(task)
            if self._best is None or accuracy > self._best["accuracy"]:
                self._best = {"epoch": self.epoch, "accuracy": accuracy}
            if last:
                recorder.noted("best on test", {"task": task.index, **self._best, "last accuracy": accuracy})
        return summary

    def _tested(self, task: Task) -> float:
        """Task-agnostic accuracy on the test images of all classes seen, in percent."""
        seen = self.tasks[: task.index + 1]
        with autocast(self.config.precision, self.device):
            _, agnostic = count_correct(self.net, seen, self.augmentation.normalise, self.method.scores)
        return 100 * int(agnostic.sum()) / sum(len(own.test) for own in seen)
