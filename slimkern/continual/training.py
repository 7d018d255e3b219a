"""The training loop: tasks, epochs, steps."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from slimkern.captured_step import capture
from slimkern.continual.config import TrainConfig
from slimkern.continual.data import Dataset, ImageSet
from slimkern.continual.data.augment import Augmentation
from slimkern.continual.evaluation import count_correct, validation_accuracy
from slimkern.continual.loss_ring import LossRing
from slimkern.continual.methods import Method, make_method
from slimkern.continual.metrics import Counts
from slimkern.continual.network import ContinualNet
from slimkern.continual.optimiser import Optimiser
from slimkern.continual.precision import autocast, tensor_float_32
from slimkern.continual.recorder import EpochSummary, Plan, Recorder
from slimkern.continual.seeding import seed_for
from slimkern.continual.step import TrainStep
from slimkern.continual.tasks import Task, build_tasks
from slimkern.continual.width_choice import Choice, sandwiches
from slimkern.memory import peak_memory
from slimkern.models import resnet18
from slimkern.nn import scroll_to

State = dict[str, Any]
_NETWORK, _TASK, _EPOCH, _AFTER, _WIDTHS = range(5)


class DivergedError(RuntimeError):
    """The loss of a step was not finite; the message names the step. The last checkpoint is from before it."""


def train(
    config: TrainConfig,
    dataset: Dataset,
    recorder: Recorder | None = None,
    state: State | None = None,
    device: torch.device | str = "cpu",
    eager: bool = False,
) -> Counts:
    """Learn the tasks of a data set one after the other.

    Args:
        config: what to do.
        dataset: the images, on any device.
        recorder: told of every epoch and task, and handed a checkpoint after each.
        state: a checkpoint of the same configuration to go on from; on a CPU the run then ends bit for bit as an
            unbroken one does.
        device: where to train; the images are moved there.
        eager: launch every operator of a step by itself on a GPU too, instead of replaying a CUDA graph.

    Returns:
        Correct answers after each task, on each task, at each width.

    Raises:
        ConfigError, TaskError: the configuration doesn't fit the method or the data set.
        DivergedError: a loss was NaN or infinite.
    """
    trainer = Trainer(config, dataset, torch.device(device), eager)
    if state is not None:
        trainer.load_state_dict(state)
    return trainer.run(recorder or Recorder())


class Trainer:
    """One run and where it is: `task` and `epoch` are what comes next."""

    def __init__(self, config: TrainConfig, dataset: Dataset, device: torch.device, eager: bool = False) -> None:
        self.config, self.device, self._eager = config, device, eager
        self.method: Method = make_method(config)
        widths = config.all_widths()
        self.tasks = [
            _moved(task, device)
            for task in build_tasks(
                dataset,
                tasks=config.tasks,
                first_task_classes=config.first_task_classes,
                classes=config.classes,
                order=config.class_order,
                seed=config.seed,
                validation=config.validation,
            )
        ]
        self.augmentation = Augmentation.named(
            config.augmentation or dataset.augmentation, dataset.mean, dataset.std, device
        )
        seed_for(config.seed, _NETWORK)
        backbone = resnet18(
            None, widths, in_channels=len(dataset.mean), channels=config.channels, recompute=config.recompute
        )
        self.net = ContinualNet(backbone, widths).to(device).to(memory_format=torch.channels_last)
        self.counts = Counts.empty(widths.fractions, tuple(len(task.test) for task in self.tasks))
        self.task, self.epoch = 0, 0

    def run(self, recorder: Recorder) -> Counts:
        """Train from where the run is to its end; see `train`."""
        recorder.started(self._plan(), self.task, self.epoch)
        with tensor_float_32(self.config.precision):
            while self.task < len(self.tasks):
                self._learn(self.tasks[self.task], recorder)
        recorder.finished(self.counts)
        return self.counts

    def state_dict(self) -> State:
        """All that is needed to go on: tensors and plain values."""
        return {
            "task": self.task,
            "epoch": self.epoch,
            "heads": [head.out_features for head in self.net.heads],
            "net": self.net.state_dict(),
            "optimiser": self.optimiser.state_dict() if self.epoch else None,
            "method": self.method.state_dict(),
            "counts": self.counts.to_json(),
        }

    def load_state_dict(self, state: State) -> None:
        """Go on from a state given by `state_dict` under the same configuration."""
        self.task, self.epoch = state["task"], state["epoch"]
        for classes in state["heads"]:
            self.net.add_head(classes)
        self.net.load_state_dict(state["net"])
        self.method.load_state_dict(state["method"], self.net)
        self.counts = Counts.from_json(state["counts"])
        if self.epoch:
            self._set_optimiser()
            self.optimiser.load_state_dict(state["optimiser"])

    def _learn(self, task: Task, recorder: Recorder) -> None:
        config = self.config
        if self.epoch == 0:
            seed_for(config.seed, _TASK, task.index)
            self.net.add_head(len(task.classes))
            scroll_to(self.net, task.index, config.scroll_step)
            self._set_optimiser()
            self.method.before_task(self.net, task.index)
        while self.epoch < config.epochs:
            summary = self._train_epoch(task, recorder)
            self.epoch += 1
            recorder.epoch_finished(summary)
            recorder.checkpoint(self.state_dict())
        seed_for(config.seed, _AFTER, task.index)
        self.method.after_task(self.net, task.index, self._batches(task))
        with autocast(config.precision, self.device):
            aware, agnostic = count_correct(self.net, self.tasks[: task.index + 1], self.augmentation.normalise)
        self.counts = self.counts.with_row(aware.numpy(), agnostic.numpy())
        self.task, self.epoch = task.index + 1, 0
        recorder.task_finished(task.index, self.counts)
        recorder.checkpoint(self.state_dict())

    def _set_optimiser(self) -> None:
        """A fresh optimiser for the backbone and the newest head, and the step that uses it; older heads stay."""
        for head in self.net.heads[:-1]:
            head.requires_grad_(False)
        task = self.tasks[self.task]
        self.optimiser = Optimiser([own for own in self.net.parameters() if own.requires_grad], self.config)
        self._losses = LossRing(self._steps(task), self.device)
        step = TrainStep(
            self.net, self.method, task.classes, self.optimiser, self.augmentation, self.config.precision, self._losses
        )
        self._step = capture(step, self.net, eager_because=self._eager_because())

    def _eager_because(self) -> str | None:
        return "it was asked for" if self._eager else self.method.eager_because

    def _train_epoch(self, task: Task, recorder: Recorder) -> EpochSummary:
        start = time.perf_counter()
        rate = self.config.learning_rate_at(self.epoch)
        self.optimiser.set_rate(rate)
        seed_for(self.config.seed, _EPOCH, task.index, self.epoch)
        self.net.train()
        self._losses.rewind()
        batches = zip(self._chosen(task), self._widths_of_steps(task), strict=True)
        for launched, (images, widths) in enumerate(batches, start=1):
            self._step(images.images, images.labels, widths=widths)
            recorder.step_launched(task.index, self.epoch, launched)
        # The only read-back of the epoch.
        norm = self.optimiser.norm()
        names, losses, present = self._losses.read()
        self._refuse_divergence(names, losses, norm.cpu())
        means = losses.sum(0) / present.sum(0).clamp(min=1)
        with autocast(self.config.precision, self.device):
            validation = validation_accuracy(self.net, task, self.augmentation.normalise)
        return EpochSummary(
            task.index,
            self.epoch,
            float(losses.sum(1).mean()),
            dict(zip(names, means.tolist(), strict=True)),
            rate,
            validation,
            time.perf_counter() - start,
            peak_memory(self.device),
            self._step.reason if self.device.type == "cuda" else None,
        )

    def _widths_of_steps(self, task: Task) -> list[Choice] | list[None]:
        count, steps = self.config.widths_per_step, self._steps(task)
        if count is None:
            return [None] * steps
        return sandwiches(self.config.all_widths(), count, steps, self.config.seed, _WIDTHS, task.index, self.epoch)

    def _chosen(self, task: Task) -> Iterator[ImageSet]:
        """The task's training images once, shuffled, a batch at a time."""
        order = torch.randperm(len(task.train), device=self.device)
        for own in _chunks(order, self.config.batch_size):
            yield task.train.select(own)

    def _batches(self, task: Task) -> Iterator[tuple[Tensor, Tensor]]:
        """The task's training images once, shuffled and augmented."""
        for chosen in self._chosen(task):
            yield self.augmentation(chosen.images).contiguous(memory_format=torch.channels_last), chosen.labels

    def _steps(self, task: Task) -> int:
        return len(_chunks(task.train.labels, self.config.batch_size))

    def _refuse_divergence(self, names: Sequence[str], losses: Tensor, weights: Tensor) -> None:
        bad = (~losses.isfinite()).nonzero()
        if not len(bad) and weights.isfinite():
            return
        step, part = bad[0].tolist() if len(bad) else (len(losses) - 1, None)
        what = "norm of the weights after" if part is None else f"{names[part]} of"
        value = weights if part is None else losses[step, part]
        raise DivergedError(
            f"the {what} task {self.task}, epoch {self.epoch}, step {step} (all counted from 0) is {value.item()}; the "
            f"last checkpoint is from before this epoch. A lower learning rate (now {self.config.learning_rate}) or "
            "strength may help"
        )

    def _plan(self) -> Plan:
        return Plan(
            tasks=tuple(len(task.classes) for task in self.tasks),
            epochs=self.config.epochs,
            steps=tuple(map(self._steps, self.tasks)),
            widths=self.counts.widths,
            parameters=sum(parameter.numel() for parameter in self.net.parameters()),
        )


def _chunks(tensor: Tensor, size: int) -> list[Tensor]:
    """Pieces of `size`, the last one smaller; a single leftover joins its neighbour, as batch norm needs two."""
    chunks = list(tensor.split(size))
    if len(chunks) > 1 and len(chunks[-1]) == 1:
        chunks[-2:] = [torch.cat(chunks[-2:])]
    return chunks


def _moved(task: Task, device: torch.device) -> Task:
    return replace(task, train=task.train.to(device), validation=task.validation.to(device), test=task.test.to(device))
