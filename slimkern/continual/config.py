"""What a training run is, apart from where its data lies and what it runs on."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from slimkern.continual.data import DatasetName
from slimkern.continual.data.augment import AUGMENTATIONS
from slimkern.continual.precision import PrecisionName
from slimkern.continual.selection import SelectionName
from slimkern.widths import Widths

MethodName = Literal[
    "ft", "lwf", "ewc", "mas", "icarl", "bic", "lucir", "joint", "freezing", "autoactivator", "scl-pnc"
]
ModelName = Literal["resnet18", "resnet32-branches"]
ClassOrder = Literal["seed", "sorted", "icarl"]
Protocol = Literal["paper", "released"]
ScrollName = Literal["constant", "none", "random", "correlation"]
NonlinearityName = Literal["sigmoid", "relu", "tanh"]
ExpandName = Literal["always", "demand"]
Homogeneity = Literal["none", "task", "class"]


class ConfigError(Exception):
    """A configuration that can't be run; the message names the field, what it was and what is allowed.

    Not a ValueError, which the command line's parser would take for its own.
    """


@dataclass(frozen=True)
class TrainConfig:
    """One run: a sequence of tasks learned by one method.

    Epochs, learning rate, its schedule and the batch size default to those of the ScrollNet paper, section 4.1. What
    the paper leaves open follows its released code: no momentum, no weight decay, clipping at 10000, a tenth of the
    training images held out. The data set and the number of tasks are a small example's.

    Raises:
        ConfigError: a field outside what is allowed.
    """

    data: DatasetName = "digits"
    """Data set. `digits` comes with scikit-learn; the others are read from --root."""
    tasks: int = 5
    """Number of tasks that the classes are split into."""
    first_task_classes: int | None = None
    """Classes of the first task, where it is larger than the others."""
    classes: int | None = None
    """Only the first so many classes of the class order, for a shortened run; by default all."""
    class_order: ClassOrder = "seed"
    """Order in which classes are learned: shuffled by the seed, the data set's own, or iCaRL's for CIFAR-100."""
    validation: float = 0.1
    """Share of each class's training images that is held out."""
    augmentation: str | None = None
    """crop-resize (the paper's), crop-flip, crop-flip-jitter, shift or none; by default what suits the data set."""
    model: ModelName = "resnet18"
    """Network: ResNet-18 with a 3x3 stem and no max-pooling; or SCL-PNC's branches of ResNet-32."""
    channels: int = 64
    """Channels of the network's first stage."""
    method: MethodName = "ft"
    """How to learn a task without forgetting the others: see `slimkern methods`."""
    options: dict[str, float] = field(default_factory=dict)
    """Options of the method, as name value pairs: see `slimkern methods`."""
    exemplars: int = 0
    """Training images of all classes together to keep for later tasks; 2000 in the paper's methods that need them."""
    exemplars_per_class: int = 0
    """The same as a number for each class, whatever the number of classes."""
    selection: SelectionName = "herding"
    """How exemplars are chosen: by their features' mean, at random, most uncertain or nearest the boundary first."""
    widths: tuple[float, ...] = (4.0,)
    """1 for the plain baseline, 2 or 4 for ScrollNet-2 or -4, or ascending fractions that end in 1.0."""
    widths_per_step: int | None = None
    """Widths that a step trains: the narrowest, the widest and others at random; by default all of them."""
    scroll: ScrollName = "constant"
    """How tasks are ranked: by the paper's constant step, never anew, by random steps, or apart from unlike tasks."""
    scroll_step: int = 1
    """Blocks that `--scroll constant` scrolls by from task to task; 0 never scrolls."""
    protocol: Protocol = "paper"
    """Where the paper and its released code differ: `released` adds penalties on weights once for each width, and
    rounds the exemplars of a class up, so that they may be more than --exemplars in all. For scl-pnc: frozen parts stay
    in training mode, and the second task distils from the sum of both branches."""
    search: bool = False
    """Search the learning rate and the method's strength of each task on its held-out images, as FACIL does."""
    epochs: int = 200
    """Epochs a task."""
    batch_size: int = 64
    """Images a step."""
    learning_rate: float = 0.1
    """Learning rate of SGD at the start of each task."""
    momentum: float = 0.0
    """Momentum of SGD."""
    weight_decay: float = 0.0
    """Weight decay of SGD."""
    decay_at: tuple[float, ...] = (0.4, 0.6)
    """When the learning rate falls, as shares of a task's epochs: 80 and 120 of 200."""
    decay_by: float = 0.1
    """What the learning rate is multiplied by then."""
    first_task_weight_decay: float | None = None
    """Weight decay in the first task, where it is another one."""
    first_task_decay_at: tuple[float, ...] | None = None
    """When the learning rate falls in the first task, where that is at other times."""
    clip: float = 10000.0
    """Largest norm of the gradient of all parameters; for scl-pnc of the branches', the neck's and the head's."""
    precision: PrecisionName = "fp32"
    """What a step computes in: fp32, tf32, or bf16 and fp16 by autocast; weights stay float32."""
    recompute: bool = False
    """Keep only what goes between the network's stages and compute the rest again for the gradient: less memory."""
    nonlinearity: NonlinearityName | None = None
    """Of AutoActivator's nodes: sigmoid, relu or tanh; by default sigmoid on pixels and relu on features."""
    features: str | None = None
    """AutoActivator: file of a frozen network, saved by torch.export, whose outputs stand for the pixels."""
    test_batch: int = 1
    """AutoActivator: test images that one decision about the unit to wake is made for."""
    homogeneous: Homogeneity = "none"
    """AutoActivator: whether such images all come from one task, as in its paper, or from one class."""
    expand: ExpandName = "always"
    """SCL-PNC: a branch for each task, or only where the present ones don't suffice: see docs/scl_pnc.md."""
    best_on_test: bool = False
    """SCL-PNC: also note the best accuracy on the test images over a task's epochs, which no report takes for a
    result."""
    seed: int = 0
    """Seed of the class order, the network, the order of images and their augmentation."""

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name}={getattr(self, name)!r} is unknown; allowed: {', '.join(map(str, allowed))}")
        for name, (low, high) in _RANGES.items():
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name}={getattr(self, name)} must lie in {low} to {high}")
        for name in ("decay_at", "first_task_decay_at"):
            if any(not 0 < share < 1 for share in getattr(self, name) or ()):
                raise ConfigError(f"{name}={getattr(self, name)} must be shares of a task's epochs between 0 and 1")
        if self.first_task_weight_decay is not None and not 0 <= self.first_task_weight_decay <= _MANY:
            raise ConfigError(f"first_task_weight_decay={self.first_task_weight_decay} must lie in 0 to {_MANY}")
        if self.exemplars and self.exemplars_per_class:
            raise ConfigError(
                f"exemplars={self.exemplars} and exemplars_per_class={self.exemplars_per_class}: give only one of them"
            )
        widths = self.all_widths()
        try:
            widths.check_divide(self.channels, "channels")
        except ValueError as error:
            raise ConfigError(str(error)) from error
        count = len(widths.shares)
        if self.widths_per_step is not None and not 2 <= self.widths_per_step <= count:
            allowed = f"lie in 2 to {count}, the number of widths" if count > 1 else "be left out for a single width"
            raise ConfigError(f"widths_per_step={self.widths_per_step} must {allowed}")
        self._check_units()
        self._check_branches()

    def all_widths(self) -> Widths:
        """The widths: one number above 1 counts even ones, anything else are the fractions themselves.

        Raises:
            ConfigError: they aren't widths, or are more than there are channels.
        """
        count = self.widths[0] if len(self.widths) == 1 else 0.0
        counted = count > 1 and float(count).is_integer()
        if counted and count > self.channels:
            raise ConfigError(f"widths={count:g} must be at most channels={self.channels}")
        try:
            return Widths.of(int(count) if counted else list(self.widths))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"widths: {error}") from error

    def _check_units(self) -> None:
        """What only AutoActivator takes, and what it doesn't."""
        if self.method != "autoactivator":
            for name in ("nonlinearity", "features", "test_batch", "homogeneous"):
                if getattr(self, name) != getattr(type(self), name):
                    raise ConfigError(f"{name}={getattr(self, name)!r} is for method autoactivator, not {self.method}")
            return
        if self.widths not in ((1,), (1.0,)):
            raise ConfigError(f"widths={self.widths}: autoactivator has no widths; give --widths 1")
        for name in _OF_TRAINING:
            if getattr(self, name) != getattr(type(self), name):
                raise ConfigError(
                    f"{name}={getattr(self, name)!r}: autoactivator trains no network and keeps no images; leave it out"
                )

    def _check_branches(self) -> None:
        """What only SCL-PNC takes, and what it doesn't."""
        if self.method == "scl-pnc":
            if self.widths not in ((1,), (1.0,)):
                raise ConfigError(f"widths={self.widths}: scl-pnc has branches and no widths; give --widths 1")
            if self.search:
                raise ConfigError("search=True: scl-pnc has the rates of its paper; leave --search out")
            if self.recompute:
                raise ConfigError("recompute=True: scl-pnc keeps nothing of frozen branches anyway; leave it out")
            if self.model != "resnet32-branches":
                raise ConfigError(f"model={self.model!r}: scl-pnc is for resnet32-branches")
            return
        if self.model == "resnet32-branches":
            raise ConfigError(f"model={self.model!r} is for method scl-pnc, not {self.method}")
        for name in ("expand", "best_on_test"):
            if getattr(self, name) != getattr(type(self), name):
                raise ConfigError(f"{name}={getattr(self, name)!r} is for method scl-pnc, not {self.method}")

    def learning_rate_at(self, epoch: int, task: int = 0) -> float:
        """Learning rate of an epoch of a task, both counted from 0."""
        shares = self.decay_at if task or self.first_task_decay_at is None else self.first_task_decay_at
        falls = sum(epoch >= max(1, round(share * self.epochs)) for share in shares)
        return self.learning_rate * self.decay_by**falls

    def weight_decay_of(self, task: int) -> float:
        """Weight decay of a task, counted from 0."""
        first = self.first_task_weight_decay
        return self.weight_decay if task or first is None else first

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values, with the widths as fractions."""
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {**plain, "widths": list(self.all_widths().fractions)}


_CHOICES: dict[str, tuple[Any, ...]] = {
    "data": get_args(DatasetName),
    "class_order": get_args(ClassOrder),
    "augmentation": (None, *AUGMENTATIONS),
    "model": get_args(ModelName),
    "method": get_args(MethodName),
    "selection": get_args(SelectionName),
    "protocol": get_args(Protocol),
    "scroll": get_args(ScrollName),
    "precision": get_args(PrecisionName),
    "nonlinearity": (None, *get_args(NonlinearityName)),
    "homogeneous": get_args(Homogeneity),
    "expand": get_args(ExpandName),
}
_OF_TRAINING = (
    "augmentation", "model", "channels", "exemplars", "exemplars_per_class", "selection", "widths_per_step", "scroll",
    "scroll_step", "protocol", "search", "epochs", "batch_size", "learning_rate", "momentum", "weight_decay",
    "decay_at", "decay_by", "clip", "precision", "recompute",
)  # fmt: skip
_MANY = 10**9
_RANGES: dict[str, tuple[float, float]] = {
    "tasks": (1, _MANY),
    "channels": (1, _MANY),
    "exemplars": (0, _MANY),
    "exemplars_per_class": (0, _MANY),
    "scroll_step": (0, _MANY),
    "epochs": (1, _MANY),
    "batch_size": (2, _MANY),
    "test_batch": (1, _MANY),
    "learning_rate": (0, _MANY),
    "momentum": (0, 1),
    "weight_decay": (0, _MANY),
    "decay_by": (0, 1),
    "clip": (1e-9, _MANY),
    "seed": (0, 2**32 - 1),
}
assert {*_CHOICES, *_RANGES} <= {f.name for f in fields(TrainConfig)}
