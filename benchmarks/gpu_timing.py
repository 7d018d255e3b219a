"""Timing calls on a GPU: by events, with a cold cache, on several streams, as CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from rows import Times, in_turns

from slimkern.kernels.capturing import capturing

FLUSHED = 256 * 2**20

Call = Callable[[], object]


def on_streams(calls: Sequence[Call]) -> Call:
    """All calls, each on a stream of its own."""
    streams = [torch.cuda.Stream() for _ in calls]

    def run() -> None:
        current = torch.cuda.current_stream()
        for stream, call in zip(streams, calls, strict=True):
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                call()
        for stream in streams:
            current.wait_stream(stream)

    return run


def in_sequence(calls: Sequence[Call]) -> Call:
    def run() -> None:
        for call in calls:
            call()

    return run


def captured(call: Call) -> Call:
    """A CUDA graph of a call."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with capturing(graph):
        call()
    return graph.replay


def timed(calls: dict[str, Call], repetitions: int, device: str) -> Times:
    """Seconds of each call, in turns: by CUDA events with a cold cache, or by the clock."""
    if device != "cuda":
        return in_turns(calls, repetitions)
    cache = torch.empty(FLUSHED // 4, dtype=torch.int32, device=device)
    events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {name: [] for name in calls}
    for _ in range(3 + repetitions):
        for name, call in calls.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            cache.zero_()
            start.record()
            call()
            end.record()
            events[name].append((start, end))
    torch.cuda.synchronize()
    return {name: [start.elapsed_time(end) / 1e3 for start, end in pairs[3:]] for name, pairs in events.items()}
