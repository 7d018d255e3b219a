"""The training loop: tasks, epochs, steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any, cast

import torch
from torch import Tensor, nn

from slimkern.captured_step import CapturedStep, capture
from slimkern.continual.config import TrainConfig
from slimkern.continual.data import Dataset, ImageSet
from slimkern.continual.data.augment import Augmentation
from slimkern.continual.evaluation import count_correct, plain_batches, validation_accuracy
from slimkern.continual.exemplars import Budget, Exemplars, class_sizes
from slimkern.continual.loss_ring import LossRing
from slimkern.continual.methods import Method, make_method
from slimkern.continual.metrics import Counts
from slimkern.continual.movement import Movement
from slimkern.continual.network import ContinualNet
from slimkern.continual.optimiser import Optimiser
from slimkern.continual.precision import autocast, tensor_float_32
from slimkern.continual.processes import ALONE, Processes
from slimkern.continual.recorder import EpochSummary, Plan, Recorder
from slimkern.continual.scroll_policies import make_scroll_policy
from slimkern.continual.seeding import seed_for
from slimkern.continual.step import TrainStep
from slimkern.continual.tasks import Task, build_tasks
from slimkern.continual.width_choice import sandwiches
from slimkern.memory import forget_peak_memory, peak_memory
from slimkern.models import resnet18
from slimkern.nn import ScrollLinear, current_scroll, set_scroll

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
        eager: go through the Python of every step, instead of replaying a recorded one (see `slimkern.capture`).

    Returns:
        Correct answers after each task, on each task, at each width.

    Raises:
        ConfigError, TaskError: the configuration doesn't fit the method or the data set.
        DivergedError: a loss was NaN or infinite.
    """
    from slimkern.continual.trainers import make_trainer  # its trainers are made from the one below

    trainer = make_trainer(config, dataset, torch.device(device), eager=eager)
    if state is not None:
        trainer.load_state_dict(state)
    return trainer.run(recorder or Recorder())


class Trainer:
    """One run and where it is: `task` and `epoch` are what comes next."""

    def __init__(
        self,
        config: TrainConfig,
        dataset: Dataset,
        device: torch.device,
        processes: Processes = ALONE,
        eager: bool = False,
    ) -> None:
        self.config, self.device, self.processes, self._eager = config, device, processes, eager
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
        budget = self._budget()
        budget.check([size for task in self.tasks for size in class_sizes(task)])
        self.exemplars = Exemplars(budget, self.tasks[0].train)
        seed_for(config.seed, _NETWORK)
        self.net = self._network(len(dataset.mean)).to(device).to(memory_format=torch.channels_last)
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
            "heads": self._growth(),
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
        self._grow_to(state["heads"])
        self.net.load_state_dict(state["net"])
        self.method.load_state_dict(state["method"], self.net)
        self.exemplars.load_state_dict(state["exemplars"])
        self.scroll_policy.load_state_dict(state["scroll_policy"])
        self.counts = Counts.from_json(state["counts"])
        if self.epoch:
            self._set_optimiser()
            self.optimiser.load_state_dict(state["optimiser"])
            self.movement.load_state_dict(state["movement"])

    def _network(self, in_channels: int) -> ContinualNet:
        """The network before the first task."""
        config, widths = self.config, self.config.all_widths()
        backbone = resnet18(None, widths, in_channels, config.channels, config.recompute)
        return self.method.network(backbone, widths)

    def _budget(self) -> Budget:
        """How many exemplars may be kept."""
        return Budget.of(self.config, self.method.held_out_share)

    def _grow(self, task: Task, recorder: Recorder) -> None:
        """Make the network ready for a new task."""
        scroll = self.scroll_policy.choose(self.net, task.index, self._sample(task))
        self.net.add_head(len(task.classes))
        set_scroll(self.net, scroll)
        self._agree()
        recorder.noted("scrolled", {"task": task.index, "scroll": current_scroll(self.net)})

    def _growth(self) -> list[int]:
        """How the network has grown, as far as `_grow_to` has to know it."""
        return [head.out_features for head in cast(Sequence[ScrollLinear], self.net.heads)]

    def _grow_to(self, growth: list[int]) -> None:
        """Give the network before the first task the shape that it had."""
        for classes in growth:
            self.net.add_head(classes)

    def _frozen(self) -> Sequence[nn.Module]:
        """Parts of the network that the present task leaves as they are."""
        return self.method.frozen(self.net, self._rehearsing)

    def _clipped(self, learned: list[nn.Parameter]) -> list[list[nn.Parameter]]:
        """Parameters whose gradients are clipped together."""
        return [learned]

    def _learn(self, task: Task, recorder: Recorder) -> None:
        config = self.config
        if self.epoch == 0:
            seed_for(config.seed, _TASK, task.index)
            self._grow(task, recorder)
            self._set_optimiser()
            self.movement.begin(self.net.backbone)
            self.method.before_task(self.net, task.index)
        images = self._training_images(task)
        losses = LossRing(len(self._chunks(images.labels)), self.device)
        step = capture(self._step(task, losses), self.net, eager_because=self._eager_because())
        while self.epoch < config.epochs:
            summary = self._train_epoch(task, images, step, losses, recorder)
            self.epoch += 1
            recorder.epoch_finished(summary)
            recorder.checkpoint(self.state_dict())
        if blocks := self.movement.by_block(self.net.backbone):
            recorder.noted("moved", {"task": task.index, "blocks": blocks})
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
            truncate = self.method.truncates_exemplars
            self.exemplars.update(task, self.net, self.config.selection, normalise, truncate)
            kept = (self.exemplars.trained, self.exemplars.held_out)
            self.method.after_selection(self.net, *(plain_batches(images, normalise) for images in kept))
        self.method.after_task(self.net, task.index, self._batches(self.exemplars.split(task)[0]))
        self.scroll_policy.task_learned(self.net, self._sample(task))

    def _evaluate(self, task: Task) -> None:
        seen, normalise = self.tasks[: task.index + 1], self.augmentation.normalise
        with autocast(self.config.precision, self.device):
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
        self.frozen = self._frozen()
        self.net.requires_grad_(True)
        for part in self.frozen:
            part.requires_grad_(False)
        learned = [parameter for parameter in self.net.parameters() if parameter.requires_grad]
        decay = self.config.weight_decay_of(self.task)
        self.optimiser = Optimiser(learned, self.config, self.processes, decay, self._clipped(learned))

    def _step(self, task: Task, losses: LossRing) -> Callable[..., None]:
        return TrainStep(
            self.net,
            self.method,
            range(task.classes.stop) if self._rehearsing else task.classes,
            self.optimiser,
            self.augmentation,
            self.config.precision,
            losses,
            self.processes,
        )

    def _eager_because(self) -> str | None:
        if self.processes.count > 1:
            return "several processes exchange their gradients"
        return "it was asked for" if self._eager else self.method.eager_because

    def _train_epoch(
        self, task: Task, data: ImageSet, step: CapturedStep, ring: LossRing, recorder: Recorder
    ) -> EpochSummary:
        start = time.perf_counter()
        rate = self.config.learning_rate_at(self.epoch, task.index)
        self.optimiser.set_rate(rate)
        seed_for(self.config.seed, _EPOCH, task.index, self.epoch)
        self._set_modes()
        ring.rewind()
        forget_peak_memory(self.device)
        with self.processes.one_batch(self.net):
            batches = zip(self._chosen(data), self._kinds_of_steps(task, ring.steps), strict=True)
            for launched, (chosen, kind) in enumerate(batches, start=1):
                step(chosen.images, chosen.labels, **kind)
                recorder.step_launched(task.index, self.epoch, launched)
        # The only read-back of the epoch.
        self.processes.add_up([ring.losses])
        (names, losses, present), norm = ring.read(), self.optimiser.norm().cpu()
        peak = peak_memory(self.device)
        self._refuse_divergence(names, losses, norm)
        means = losses.sum(0) / present.sum(0).clamp(min=1)
        with autocast(self.config.precision, self.device):
            validation = validation_accuracy(self.net, task, self.augmentation.normalise)
        return EpochSummary(
            task.index,
            self.epoch,
            float(losses.sum(1).mean()),
            {name: mean for name, mean, seen in zip(names, means.tolist(), present.any(0), strict=True) if seen},
            rate,
            validation,
            time.perf_counter() - start,
            peak,
            step.reason,
        )

    def _set_modes(self) -> None:
        """Put the network into training mode, but for what is frozen."""
        self.net.train()
        for part in self.frozen:
            part.eval()

    def _kinds_of_steps(self, task: Task, steps: int) -> list[dict[str, Any]]:
        """Keyword arguments of each step of an epoch."""
        count, config = self.config.widths_per_step, self.config
        if count is None:
            return [{"widths": None}] * steps
        chosen = sandwiches(config.all_widths(), count, steps, config.seed, _WIDTHS, task.index, self.epoch)
        return [{"widths": widths} for widths in chosen]

    def _chosen(self, data: ImageSet) -> Iterator[ImageSet]:
        """Training images once, shuffled, a batch at a time."""
        for own in self._chunks(torch.randperm(len(data), device=self.device)):
            yield data.select(own)

    def _batches(self, data: ImageSet) -> Iterator[tuple[Tensor, Tensor]]:
        """Training images once, shuffled and augmented."""
        for chosen in self._chosen(data):
            yield self.augmentation(chosen.images).contiguous(memory_format=torch.channels_last), chosen.labels

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
        """Outside of steps every process does the whole work; where they came to differ, process 0 is right."""
        if self.processes.count > 1:
            state = self.processes.broadcast(self.state_dict())
            self.net.load_state_dict(state["net"])
            self.method.load_state_dict(state["method"], self.net)
            self.exemplars.load_state_dict(state["exemplars"])
            self.scroll_policy.load_state_dict(state["scroll_policy"])

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
