"""What a profiler tells of a call: how much the host has to start, and how much memory it takes meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

_STARTS = ("cudaLaunch", "cuLaunch", "cudaGraphLaunch", "cudaMemcpy", "cudaMemset")


@dataclass(frozen=True)
class Profile:
    """Of one call.

    Attributes:
        launches: what the host starts: kernels, copies and graphs on a GPU, operators on a CPU.
        peak_bytes: memory of tensors at most, beyond what they held before. What libraries take by themselves isn't in
            it, nor what a CUDA graph holds already.
    """

    launches: int
    peak_bytes: int


def profiled(call: Callable[[], object], device: str) -> Profile:
    """Call once and look on."""
    on_gpu = device == "cuda"
    before = 0
    if on_gpu:
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    with recording(device, profile_memory=not on_gpu) as seen:
        call()
    if on_gpu:
        starts = sum(event.name.startswith(_STARTS) for event in seen.events())
        return Profile(starts, torch.cuda.max_memory_allocated() - before)
    starts = sum("::" in event.name and event.cpu_parent is None for event in seen.events())
    return Profile(starts, _peak(seen))


def recording(device: str, **options: Any) -> profile:
    """A profiler of a CPU, and of a GPU where that is the device."""
    return profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])], **options)


def spent(seen: profile, device: str) -> dict[str, tuple[float, int]]:
    """Seconds and number of each kernel on a GPU, of each operator on a CPU, by name; what they call isn't in it."""
    if device != "cuda":
        return {event.key: (event.self_cpu_time_total / 1e6, event.count) for event in seen.key_averages()}
    return {  # operators carry the time of their kernels as well
        event.key: (event.self_device_time_total / 1e6, event.count)
        for event in seen.key_averages()
        if event.device_type == torch.autograd.DeviceType.CUDA
    }


def _peak(seen: profile) -> int:
    """The most that allocations, less what was freed since the profiler began, ever came to."""
    results: Any = seen.profiler and seen.profiler.kineto_results
    changes = sorted(
        (event.start_ns(), place, event.nbytes())
        for place, event in enumerate(results.events())
        if event.name() == "[memory]"
    )
    return max(0, *accumulate(change for _, _, change in changes), 0)
