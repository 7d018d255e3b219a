"""A launch that is soon compiled."""

from __future__ import annotations

import torch
from convolutions import Layer, Work


def stem() -> None:
    problem, launch = Work(Layer(3, 32, 3, 1, 8, 1), 4, torch.bfloat16, "cpu").by_triton("forward", "in place")
    launch(problem.candidates(True, 1 << 20)[0])
