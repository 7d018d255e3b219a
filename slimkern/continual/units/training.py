"""The run of an AutoActivator: one unit a task."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from slimkern.continual.config import ConfigError, TrainConfig
from slimkern.continual.data import Dataset, ImageSet
from slimkern.continual.data.augment import Augmentation
from slimkern.continual.methods import make_method
from slimkern.continual.methods.autoactivator import AutoActivator
from slimkern.continual.metrics import Counts
from slimkern.continual.recorder import EpochSummary, Plan, Recorder
from slimkern.continual.seeding import seed_for
from slimkern.continual.tasks import Task, build_tasks
from slimkern.continual.units.activation import in_batches, wake
from slimkern.continual.units.recruiting import Recruiter, Samples
from slimkern.continual.units.scan import NONLINEARITIES
from slimkern.continual.units.unit import Unit, ask

Features = Callable[[Tensor], Tensor]
_TASK, _BATCHES = 1, 2
_IMAGES = 256
SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
"""Test-batch sizes that every run is evaluated with, beside its own."""
KINDS = ("task", "class", "none")


class UnitTrainer:
    """One run and where it is: `task` is what comes next.

    Images become rows of numbers: the pixels, or what a frozen network makes of them, each row less its mean and over
    its standard deviation. The counts hold answers given one image at a time; what batches of test images would have
    been answered is noted beside them, as `activated`, for every size and kind of batch.

    Args:
        config: with the method autoactivator.
        dataset: the images, on any device.
        device: where to compute.
        features: a frozen network, from normalised images [N, C, H, W] to [N, ...]; None for the pixels.

    Raises:
        ConfigError, TaskError: the configuration doesn't fit the method or the data set.
    """

    def __init__(
        self, config: TrainConfig, dataset: Dataset, device: torch.device, features: Features | None = None
    ) -> None:
        rules = make_method(config)
        assert isinstance(rules, AutoActivator)
        self.config, self._rules, self._device = config, rules, device
        default = "sigmoid" if features is None else "relu"
        self._nonlinearity = NONLINEARITIES[config.nonlinearity or default]
        self._features = _frozen(features, device)
        self._augmentation = Augmentation.named("none", dataset.mean, dataset.std, device)
        self.tasks = build_tasks(
            dataset,
            tasks=config.tasks,
            first_task_classes=config.first_task_classes,
            classes=config.classes,
            order=config.class_order,
            seed=config.seed,
            validation=config.validation,
        )
        if any(len(task.classes) == 1 for task in self.tasks):
            raise ConfigError(
                f"tasks={config.tasks} of {sum(len(task.classes) for task in self.tasks)} classes: a task of one class "
                "gives its unit nothing to tell apart, and confidence 0 on every image; autoactivator needs two a task"
            )
        fewest = min(len(task.train) for task in self.tasks)
        if fewest < rules.nodes:
            raise ConfigError(f"option nodes={rules.nodes:g}: a task has only {fewest} training images")
        self.units: list[Unit] = []
        self.counts = Counts.empty((1.0,), tuple(len(task.test) for task in self.tasks))

    def run(self, recorder: Recorder) -> Counts:
        """Learn the tasks that are left; see `slimkern.continual.training.train`."""
        recorder.started(self._plan(), len(self.units), 0)
        tests = [self._samples(task.test, 0) for task in self.tasks]
        for task in self.tasks[len(self.units) :]:
            self._learn(task, recorder)
            self._evaluate(task, tests[: task.index + 1], recorder)
            recorder.task_finished(task.index, self.counts)
            recorder.checkpoint(self.state_dict())
        recorder.finished(self.counts)
        return self.counts

    def state_dict(self) -> dict[str, Any]:
        """The units and the counts."""
        return {"units": [asdict(unit) for unit in self.units], "counts": self.counts.to_json()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state given by `state_dict`."""
        self.units = [Unit(**unit) for unit in state["units"]]
        self.counts = Counts.from_json(state["counts"])

    def _learn(self, task: Task, recorder: Recorder) -> None:
        start = time.perf_counter()
        seed_for(self.config.seed, _TASK, task.index)
        train, held_out = (self._samples(part, task.classes.start) for part in (task.train, task.validation))
        recruiter = Recruiter(train, held_out, task.classes, self._rules, self._nonlinearity, self.units)
        while (ended := recruiter.ended()) is None and recruiter.recruit():
            recorder.step_launched(task.index, 0, len(recruiter.history))
        unit = recruiter.unit()
        self.units.append(unit)
        residual = recruiter.history[-1].residual
        steps = [asdict(step) for step in recruiter.history]
        told = {"task": task.index, "nodes": len(unit.biases), "ended": ended or "no candidate", "steps": steps}
        recorder.noted("recruited", told)
        correct = (unit.outputs(held_out.inputs, self._nonlinearity).argmax(1) == held_out.labels).double()
        accuracy = 100 * float(correct.mean()) if len(correct) else None
        seconds = time.perf_counter() - start
        recorder.epoch_finished(EpochSummary(task.index, 0, residual, {"residual": residual}, 0.0, accuracy, seconds))

    def _evaluate(self, task: Task, tests: list[Samples], recorder: Recorder) -> None:
        seed_for(self.config.seed, _BATCHES, task.index)
        answers = [ask(self.units, test.inputs, self._nonlinearity) for test in tests]
        confidences, labels = (torch.cat(parts) for parts in zip(*answers, strict=True))
        truth = torch.cat([test.labels for test in tests])
        sizes = [len(test.labels) for test in tests]
        of_task = torch.repeat_interleave(torch.tensor(sizes)).to(truth.device)
        thresholds = torch.tensor([unit.threshold for unit in self.units], device=truth.device)

        def correct(units: Tensor) -> Tensor:
            own = labels.gather(1, units[:, None]).squeeze(1)
            return torch.bincount(of_task[own == truth], minlength=len(tests)).cpu()

        alone = correct(wake(confidences, thresholds, torch.arange(len(truth), device=truth.device)))
        self.counts = self.counts.with_row(correct(of_task)[:, None].numpy(), alone[:, None].numpy())
        kinds = {"task": of_task, "class": truth, "none": torch.zeros_like(truth)}
        batches = {
            kind: {
                size: correct(wake(confidences, thresholds, in_batches(kinds[kind], size))).tolist()
                for size in sorted({*SIZES, self.config.test_batch})
            }
            for kind in KINDS
        }
        recorder.noted("activated", {"task": task.index, "images": sizes, "correct": batches})

    @torch.no_grad()
    def _samples(self, images: ImageSet, first_class: int) -> Samples:
        """Standardised rows; labels counted from `first_class`."""
        images = images.to(self._device)
        rows = [self._features(self._augmentation.normalise(part)).flatten(1) for part in images.images.split(_IMAGES)]
        inputs = torch.cat(rows)
        inputs = (inputs - inputs.mean(1, keepdim=True)) / inputs.std(1, keepdim=True).clamp_min(1e-6)
        return Samples(inputs, images.labels - first_class)

    def _plan(self) -> Plan:
        steps = -(-int(self._rules.limit) // int(self._rules.nodes))
        sizes = tuple(len(task.classes) for task in self.tasks)
        return Plan(sizes, 1, (steps,) * len(sizes), (1.0,), sum(unit.numbers for unit in self.units))


def _frozen(features: Features | None, device: torch.device) -> Features:
    if features is None:
        return lambda images: images
    return features.to(device).eval() if isinstance(features, nn.Module) else features
