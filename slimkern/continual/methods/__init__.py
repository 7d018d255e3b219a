"""Methods of continual learning: each says what is lost at width 1.0, and what happens between tasks."""

from __future__ import annotations

from typing import get_args

from slimkern.continual.config import ConfigError, MethodName, TrainConfig
from slimkern.continual.methods.autoactivator import AutoActivator
from slimkern.continual.methods.bic import BiC
from slimkern.continual.methods.ewc import EWC
from slimkern.continual.methods.finetuning import FineTuning
from slimkern.continual.methods.freezing import Freezing
from slimkern.continual.methods.icarl import ICaRL
from slimkern.continual.methods.joint import Joint
from slimkern.continual.methods.lucir import LUCIR
from slimkern.continual.methods.lwf import LwF
from slimkern.continual.methods.mas import MAS
from slimkern.continual.methods.method import Method, Step
from slimkern.continual.methods.scl_pnc import SCLPNC

METHODS: dict[str, type[Method]] = {
    "ft": FineTuning,
    "lwf": LwF,
    "ewc": EWC,
    "mas": MAS,
    "icarl": ICaRL,
    "bic": BiC,
    "lucir": LUCIR,
    "joint": Joint,
    "freezing": Freezing,
    "autoactivator": AutoActivator,
    "scl-pnc": SCLPNC,
}
assert set(METHODS) == set(get_args(MethodName))


def config_for(method: MethodName) -> TrainConfig:
    """The configuration of a run of which nothing but the method is given: each has defaults of its own."""
    return TrainConfig(method=method, **METHODS[method].defaults)


def make_method(config: TrainConfig) -> Method:
    """The method that a configuration asks for, with its options.

    Raises:
        ConfigError: an option that the method doesn't have, or a value that it doesn't allow; no exemplars where it
            needs them, or some where it keeps all images.
    """
    kind = METHODS[config.method]
    exemplars = config.exemplars or config.exemplars_per_class
    if kind.needs_exemplars and not exemplars:
        raise ConfigError(
            f"method {config.method} needs exemplars: give exemplars (2000 in all in the paper) or exemplars_per_class"
        )
    if kind.keeps_all_images and exemplars:
        raise ConfigError(f"method {config.method} keeps all images, so it takes no exemplars")
    allowed = kind.options()
    unknown = sorted(set(config.options) - set(allowed))
    if unknown:
        listed = ", ".join(f"{name} (default {default})" for name, default in allowed.items()) or "none"
        raise ConfigError(f"options {', '.join(unknown)}: method {config.method} has no such options; it has: {listed}")
    penalties = len(config.all_widths().shares) if config.protocol == "released" else 1
    return kind.from_options({**allowed, **config.options}, penalties)


__all__ = [
    "EWC",
    "LUCIR",
    "MAS",
    "METHODS",
    "SCLPNC",
    "BiC",
    "FineTuning",
    "Freezing",
    "ICaRL",
    "Joint",
    "LwF",
    "Method",
    "Step",
    "config_for",
    "make_method",
]
