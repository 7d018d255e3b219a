"""The training loop: tasks, epochs, steps."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from slimkern.continual.config import TrainConfig
from slimkern.continual.data import Dataset, ImageSet
from slimkern.continual.data.augment import Augmentation
from slimkern.continual.evaluation import count_correct, plain_batches, validation_accuracy
from slimkern.continual.exemplars import Budget, Exemplars, class_sizes
from slimkern.continual.methods import Method, Step, make_method
from slimkern.continual.metrics import Counts
from slimkern.continual.movement import Movement
from slimkern.continual.processes import ALONE, Processes
from slimkern.continual.recorder import EpochSummary, Plan, Recorder
from slimkern.continual.scroll_policies import make_scroll_policy
from slimkern.continual.seeding import seed_for
from slimkern.continual.tasks import Task, build_tasks
from slimkern.models import resnet18
from slimkern.nn import set_scroll
from slimkern.width_batch import every_width

State = dict[str, Any]
_NETWORK, _TASK, _EPOCH, _AFTER = range(4)


class DivergedError(RuntimeError):
    """The loss of a step was not finite; the message names the step. The last checkpoint is from before it."""


def train(
    config: TrainConfig,
    dataset: Dataset,
    recorder: Recorder | None = None,
    state: State | None = None,
    device: torch.device | str = "cpu",
) -> Counts:
    """Learn the tasks of a data set one after the other.

    Args:
        config: what to do.
        dataset: the images, on any device.
        recorder: told of every epoch and task, and handed a checkpoint after each.
        state: a checkpoint of the same configuration to go on from; on a CPU the run then ends bit for bit as an
            unbroken one does.
        device: where to train; the images are moved there.

    Returns:
        Correct answers after each task, on each task, at each width.

    Raises:
        ConfigError, TaskError: the configuration doesn't fit the method or the data set.
        DivergedError: a loss was NaN or infinite.
    """
    from slimkern.continual.trainers import make_trainer  # its trainers are made from the one below

    trainer = make_trainer(config, dataset, torch.device(device))
    if state is not None:
        trainer.load_state_dict(state)
    return trainer.run(recorder or Recorder())


class Trainer:
    """One run and where it is: `task` and `epoch` are what comes next."""

    def __init__(
        self, config: TrainConfig, dataset: Dataset, device: torch.device, processes: Processes = ALONE
    ) -> None:
        self.config, self.device, self.processes = config, device, processes
        self.method: Method = make_method(config)
        self.scroll_policy = make_scroll_policy(config if self.method.scrolls else replace(config, scroll="none"))
        self.movement = Movement()
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
        budget = Budget.of(config, self.method.held_out_share)
        budget.check([size for task in self.tasks for size in class_sizes(task)])
        self.exemplars = Exemplars(budget, self.tasks[0].train)
        seed_for(config.seed, _NETWORK)
        backbone = resnet18(None, widths, in_channels=len(dataset.mean), channels=config.channels)
        self.net = self.method.network(backbone, widths).to(device).to(memory_format=torch.channels_last)
        self.counts = Counts.empty(widths.fractions, tuple(len(task.test) for task in self.tasks))
        self.task, self.epoch = 0, 0

    def run(self, recorder: Recorder) -> Counts:
        """Train from where the run is to its end; see `train`."""
        recorder.started(self._plan(), self.task, self.epoch)
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
            "exemplars": self.exemplars.state_dict(),
            "scroll_policy": self.scroll_policy.state_dict(),
            "movement": self.movement.state_dict() if self.epoch else None,
            "counts": self.counts.to_json(),
        }

    def load_state_dict(self, state: State) -> None:
        """Go on from a state given by `state_dict` under the same configuration."""
        self.task, self.epoch = state["task"], state["epoch"]
        for classes in state["heads"]:
            self.net.add_head(classes)
        self.net.load_state_dict(state["net"])
        self.method.load_state_dict(state["method"], self.net)
        self.exemplars.load_state_dict(state["exemplars"])
        self.scroll_policy.load_state_dict(state["scroll_policy"])
        self.counts = Counts.from_json(state["counts"])
        if self.epoch:
            self._set_optimiser()
            self.optimiser.load_state_dict(state["optimiser"])
            self.movement.load_state_dict(state["movement"])

    def _learn(self, task: Task, recorder: Recorder) -> None:
        config = self.config
        if self.epoch == 0:
            seed_for(config.seed, _TASK, task.index)
            scroll = self.scroll_policy.choose(self.net, task.index, self._sample(task))
            self.net.add_head(len(task.classes))
            recorder.noted("scrolled", {"task": task.index, "scroll": set_scroll(self.net, scroll)})
            self._set_optimiser()
            self.movement.begin(self.net.backbone)
            self.method.before_task(self.net, task.index)
        images = self._training_images(task)
        while self.epoch < config.epochs:
            summary = self._train_epoch(task, images, recorder)
            self.epoch += 1
            recorder.epoch_finished(summary)
            recorder.checkpoint(self.state_dict())
        recorder.noted("moved", {"task": task.index, "blocks": self.movement.by_block(self.net.backbone)})
        seed_for(config.seed, _AFTER, task.index)
        self._finish(task)
        self._agree()
        self._evaluate(task)
        self.task, self.epoch = task.index + 1, 0
        recorder.task_finished(task.index, self.counts)
        recorder.checkpoint(self.state_dict())

    def _finish(self, task: Task) -> None:
        """Let the method and the exemplars keep what they need of a task that has been learned."""
        normalise = self.augmentation.normalise
        if self.exemplars.budget:
            self.exemplars.update(task, self.net, self.config.selection, normalise)
            kept = (self.exemplars.trained, self.exemplars.held_out)
            self.method.after_selection(self.net, *(plain_batches(images, normalise) for images in kept))
        self.method.after_task(self.net, task.index, self._batches(self.exemplars.split(task)[0]))
        self.scroll_policy.task_learned(self.net, self._sample(task))

    def _evaluate(self, task: Task) -> None:
        seen, normalise = self.tasks[: task.index + 1], self.augmentation.normalise
        aware, agnostic = count_correct(self.net, seen, normalise, self.method.scores)
        self.counts = self.counts.with_row(aware.numpy(), agnostic.numpy())

    @property
    def _rehearsing(self) -> bool:
        return bool(self.exemplars.budget) or self.method.keeps_all_images

    def _training_images(self, task: Task) -> ImageSet:
        """What a task is learned from: its own images, and those of earlier tasks that are still at hand."""
        if self.method.keeps_all_images:
            return ImageSet.joined([seen.train for seen in self.tasks[: task.index + 1]])
        return ImageSet.joined([self.exemplars.split(task)[0], self.exemplars.trained])

    def _set_optimiser(self) -> None:
        """A fresh optimiser for all that the method doesn't freeze."""
        self.frozen = self.method.frozen(self.net, self._rehearsing)
        self.net.requires_grad_(True)
        for part in self.frozen:
            part.requires_grad_(False)
        config = self.config
        self.parameters = [parameter for parameter in self.net.parameters() if parameter.requires_grad]
        self.optimiser = torch.optim.SGD(
            self.parameters, config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
        )

    def _train_epoch(self, task: Task, data: ImageSet, recorder: Recorder) -> EpochSummary:
        start = time.perf_counter()
        rate = self.config.learning_rate_at(self.epoch)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        seed_for(self.config.seed, _EPOCH, task.index, self.epoch)
        self.net.train()
        for part in self.frozen:
            part.eval()
        history = []
        with self.processes.one_batch(self.net):
            for images, labels in self._batches(data):
                history.append(self._train_step(task, *self.processes.share(images, labels)))
                recorder.step_launched(task.index, self.epoch, len(history))
        names = list(history[0])
        # The only read-back of the epoch.
        losses, weights = torch.stack([torch.stack([parts[name] for name in names]) for parts in history]), self._norm()
        self.processes.add_up([losses])
        losses, weights = losses.cpu(), weights.cpu()
        self._refuse_divergence(names, losses, weights)
        return EpochSummary(
            task.index,
            self.epoch,
            float(losses.sum(1).mean()),
            dict(zip(names, losses.mean(0).tolist(), strict=True)),
            rate,
            validation_accuracy(self.net, task, self.augmentation.normalise),
            time.perf_counter() - start,
        )

    def _train_step(self, task: Task, images: Tensor, labels: Tensor, share: float) -> dict[str, Tensor]:
        """One step over all widths: the method's loss at width 1.0 and cross-entropies at the others (Eq. 6).

        Of a batch that several processes train on, this is the part with so large a share of the images.
        """
        classes = range(task.classes.stop) if self._rehearsing else task.classes
        maps = self.net.backbone.maps(every_width(images))
        *narrower, own = self.net.cross_entropies(maps, labels, classes).unbind()
        parts = self.method.losses(Step(self.net, images, labels, classes, maps.at(1.0), own))
        for (width, _), loss in zip(maps, narrower, strict=False):
            parts[f"cross-entropy at {width:g}"] = loss
        self.optimiser.zero_grad(set_to_none=True)
        (share * torch.stack(list(parts.values())).sum()).backward()
        self.processes.add_up([weight.grad for weight in self.parameters if weight.grad is not None])
        torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip)
        self.optimiser.step()
        return {name: share * part.detach() for name, part in parts.items()}

    def _batches(self, data: ImageSet) -> Iterator[tuple[Tensor, Tensor]]:
        """Training images once, shuffled and augmented."""
        order = torch.randperm(len(data), device=self.device)
        for own in self._chunks(order):
            chosen = data.select(own)
            images = self.augmentation(chosen.images).contiguous(memory_format=torch.channels_last)
            yield images, chosen.labels

    def _sample(self, task: Task) -> Tensor:
        """At most 256 training images of a task, evenly spread and not augmented."""
        images = task.train.images
        return self.augmentation.normalise(images[:: -(-len(images) // 256)])

    def _chunks(self, tensor: Tensor) -> list[Tensor]:
        """A batch each. Leftovers too few for batch norm, which needs two, or for the processes join the last batch."""
        chunks = list(tensor.split(self.config.batch_size))
        if len(chunks) > 1 and len(chunks[-1]) < max(2, self.processes.count):
            chunks[-2:] = [torch.cat(chunks[-2:])]
        return chunks

    def _agree(self) -> None:
        """Between tasks every process does the whole work; where rounding made a difference, process 0 is right."""
        if self.processes.count > 1:
            state = self.processes.broadcast(self.state_dict())
            self.net.load_state_dict(state["net"])
            self.method.load_state_dict(state["method"], self.net)
            self.exemplars.load_state_dict(state["exemplars"])
            self.scroll_policy.load_state_dict(state["scroll_policy"])

    def _norm(self) -> Tensor:
        """The norm of all weights: finite only if each of them is."""
        return torch.nn.utils.get_total_norm([weight.detach() for weight in self.parameters])

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
        sizes = self.exemplars.training_sizes(self.tasks)
        if self.method.keeps_all_images:
            sizes = list(accumulate(sizes))
        return Plan(
            tasks=tuple(len(task.classes) for task in self.tasks),
            epochs=self.config.epochs,
            steps=tuple(len(self._chunks(torch.empty(size))) for size in sizes),
            widths=self.counts.widths,
            parameters=sum(parameter.numel() for parameter in self.net.parameters()),
        )


def _moved(task: Task, device: torch.device) -> Task:
    return replace(task, train=task.train.to(device), validation=task.validation.to(device), test=task.test.to(device))
