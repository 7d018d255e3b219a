"""Methods of continual learning: each says what is lost at width 1.0, and what happens between tasks."""

from __future__ import annotations

from typing import get_args

from slimkern.continual.config import ConfigError, MethodName, TrainConfig
from slimkern.continual.methods.autoactivator import AutoActivator
from slimkern.continual.methods.ewc import EWC
from slimkern.continual.methods.finetuning import FineTuning
from slimkern.continual.methods.lwf import LwF
from slimkern.continual.methods.method import Method, Step

METHODS: dict[str, type[Method]] = {"ft": FineTuning, "lwf": LwF, "ewc": EWC, "autoactivator": AutoActivator}
assert set(METHODS) == set(get_args(MethodName))


def make_method(config: TrainConfig) -> Method:
    """The method that a configuration asks for, with its options.

    Raises:
        ConfigError: an option that the method doesn't have, or a value that it doesn't allow.
    """
    kind = METHODS[config.method]
    allowed = kind.options()
    unknown = sorted(set(config.options) - set(allowed))
    if unknown:
        listed = ", ".join(f"{name} (default {default})" for name, default in allowed.items()) or "none"
        raise ConfigError(f"options {', '.join(unknown)}: method {config.method} has no such options; it has: {listed}")
    penalties = len(config.all_widths().shares) if config.protocol == "released" else 1
    return kind.from_options({**allowed, **config.options}, penalties)


__all__ = ["EWC", "METHODS", "FineTuning", "LwF", "Method", "Step", "make_method"]
