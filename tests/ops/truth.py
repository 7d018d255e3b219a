"""What the operators must compute, in float64 loops written straight from their definitions, and how to compare."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    outputs: int,
    out_offset: int = 0,
    in_offset: int = 0,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> Tensor:
    """One sub-network's convolution: y[i] = sum_j W[(i + o_out) mod C_out, (j + o_in) mod C_in] * x[j] + b[...]."""
    rows, fan_in, *taps = weight.shape
    batch, inputs, *image = x.shape
    padded = x.new_zeros(batch, inputs, *(image[axis] + 2 * padding[axis] for axis in (0, 1)))
    padded[:, :, padding[0] : padding[0] + image[0], padding[1] : padding[1] + image[1]] = x
    result = [(padded.shape[2 + a] - dilation[a] * (taps[a] - 1) - 1) // stride[a] + 1 for a in (0, 1)]
    channels = []
    for i in range(outputs):
        row = (i + out_offset) % rows
        y = x.new_zeros(batch, *result) + (0 if bias is None else bias[row])
        for j in range(inputs):
            column = (j + in_offset) % (fan_in * groups)
            if row // (rows // groups) != column // fan_in:
                continue
            for p in range(taps[0]):
                for q in range(taps[1]):
                    top, left = p * dilation[0], q * dilation[1]
                    seen = padded[:, j, top :: stride[0], left :: stride[1]][:, : result[0], : result[1]]
                    y = y + weight[row, column % fan_in, p, q] * seen
        channels.append(y)
    return torch.stack(channels, 1)


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, outputs: int, out_offset: int = 0, in_offset: int = 0
) -> Tensor:
    """One sub-network's linear map, by the same sum."""
    rows, columns = weight.shape
    channels = []
    for i in range(outputs):
        row = (i + out_offset) % rows
        y = x.new_zeros(x.shape[:-1]) + (0 if bias is None else bias[row])
        for j in range(x.shape[-1]):
            y = y + weight[row, (j + in_offset) % columns] * x[..., j]
        channels.append(y)
    return torch.stack(channels, -1)


def batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    statistics: tuple[Tensor, Tensor] | None = None,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """y = (x - mean) / sqrt(variance + eps) * weight + bias for each channel, plus a residual, through a ReLU."""
    channels = []
    for c in range(x.shape[1]):
        own = x[:, c]
        mean, variance = moments(own) if statistics is None else (statistics[0][c], statistics[1][c])
        y = (own - mean) / (variance + eps) ** 0.5
        y = y * (1 if weight is None else weight[c]) + (0 if bias is None else bias[c])
        y = y + (0 if residual is None else residual[:, c])
        channels.append(torch.where(y > 0, y, torch.zeros_like(y)) if relu else y)
    return torch.stack(channels, 1)


def moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of all values."""
    mean = values.sum() / values.numel()
    return mean, ((values - mean) ** 2).sum() / values.numel()


def moments_of_parts(slabs: Sequence[Tensor], tiles: int, dtype: torch.dtype) -> Tensor:
    """Counts, means and sums of squared deviations [3, tiles, channels of all slabs] of parts of each slab's pixels.

    Where there are fewer pixels than tiles, some parts are empty.
    """
    found = []
    for slab in slabs:
        parts = slab.detach().double().movedim(1, -1).flatten(0, -2).tensor_split(tiles)
        means = torch.stack([part.sum(0) / max(len(part), 1) for part in parts])
        squares = torch.stack([(part - mean).square().sum(0) for part, mean in zip(parts, means, strict=True)])
        counts = torch.tensor([len(part) for part in parts], dtype=means.dtype, device=means.device)
        found.append(torch.stack([counts[:, None].expand_as(means), means, squares]))
    return torch.cat(found, dim=2).to(dtype)


def doubles(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Leaves in float64 of the same values, to differentiate the loops by."""
    return [tensor.detach().double().requires_grad_() for tensor in tensors]


def assert_near(name: str, given: Tensor | None, truth: Tensor | None, tolerance: float | None = None) -> None:
    """The largest error is at most `tolerance` times the truth's root mean square."""
    assert given is not None and truth is not None, f"{name} is missing"
    assert given.shape == truth.shape, f"{name} has shape {tuple(given.shape)}, the truth {tuple(truth.shape)}"
    allowed = TOLERANCE[given.dtype] if tolerance is None else tolerance
    scale = truth.square().mean().sqrt().clamp_min(torch.finfo(torch.float64).tiny)
    error = ((given.double() - truth).abs().max() / scale).item()
    assert error <= allowed, f"{name}: relative error {error:.2e} exceeds {allowed:.0e}"


def assert_each_near(name: str, given: Tensor | None, truth: Tensor | None, tolerance: float) -> None:
    """Every error is at most `tolerance` times the value itself plus the truth's root mean square."""
    assert given is not None and truth is not None, f"{name} is missing"
    assert given.shape == truth.shape, f"{name} has shape {tuple(given.shape)}, the truth {tuple(truth.shape)}"
    scale = truth.abs() + truth.square().mean().sqrt().clamp_min(torch.finfo(torch.float64).tiny)
    error = ((given.double() - truth).abs() / scale).max().item()
    assert error <= tolerance, f"{name}: relative error {error:.2e} exceeds {tolerance:.0e}"
