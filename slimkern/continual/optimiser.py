"""Gradient descent that a CUDA graph can hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from slimkern.continual.config import TrainConfig
from slimkern.continual.processes import ALONE, Processes


class Optimiser:
    """SGD on clipped gradients, with the gradients scaled meanwhile where float16 asks for it.

    The learning rate and the scale lie on the device, and a step whose gradients overflow is skipped there, so nothing
    is read back.

    Args:
        parameters: what is learned.
        config: says learning rate, momentum, weight decay, clipping and precision.
        processes: those that train together; each has the gradients of its own images.
        weight_decay: in place of the configuration's.
        clipped: parameters whose gradients are clipped together, each group by its own norm; by default all in one.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        config: TrainConfig,
        processes: Processes = ALONE,
        weight_decay: float | None = None,
        clipped: Sequence[Sequence[nn.Parameter]] | None = None,
    ) -> None:
        self.parameters, self._clip, self._processes = list(parameters), config.clip, processes
        self._device, self._clipped = self.parameters[0].device, clipped or [self.parameters]
        self._sgd = torch.optim.SGD(
            self.parameters,
            torch.tensor(config.learning_rate, device=self._device),
            momentum=config.momentum,
            weight_decay=config.weight_decay if weight_decay is None else weight_decay,
            fused=True,
        )
        if config.momentum:
            # Otherwise PyTorch's fused SGD makes them in its first step, but leaves them unset where that is skipped.
            for own in self.parameters:
                self._sgd.state[own]["momentum_buffer"] = torch.zeros_like(own)
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=config.precision == "fp16")

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of the steps to come, also of captured ones."""
        for group in self._sgd.param_groups:
            group["lr"].fill_(rate)

    def step(self, loss: Tensor) -> None:
        """Move the parameters against the gradient of a scalar."""
        if self._scaler.is_enabled():
            # A step that broke off, as a recording may, has left word here that gradients are unscaled already.
            self._scaler._per_optimizer_states.clear()
        self._sgd.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()
        self._processes.add_up([own.grad for own in self.parameters if own.grad is not None])
        self._scaler.unscale_(self._sgd)
        for group in self._clipped:
            nn.utils.clip_grad_norm_(group, self._clip)
        self._scaler.step(self._sgd)
        self._scaler.update()

    def norm(self) -> Tensor:
        """The norm of all parameters: finite only if each of them is."""
        return nn.utils.get_total_norm([parameter.detach() for parameter in self.parameters])

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on: tensors and plain values."""
        return {"sgd": self._sgd.state_dict(), "scaler": self._scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state given by `state_dict` for the same parameters."""
        self._sgd.load_state_dict(state["sgd"])
        self._scaler.load_state_dict(state["scaler"])
        for group in self._sgd.param_groups:  # loading keeps rates where they were stored
            group["lr"] = group["lr"].to(self._device)
