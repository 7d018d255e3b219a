"""Steps as CUDA graphs: recorded once, then replayed by a single launch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from slimkern.graphs.recorded import Recorded, Step
from slimkern.kernels.capturing import capturing


class CudaGraphs:
    """CUDA graphs that share one pool of memory, as never two of them run at a time."""

    def __init__(self) -> None:
        self._stream: torch.cuda.Stream | None = None
        self._pool: Any = None

    def refuses_step(self, step: Step, modules: Sequence[nn.Module]) -> str | None:
        """Any may be: what can't be is found out while recording."""

    def refuses(self, tensors: Sequence[Tensor]) -> str | None:
        """Tensors must all be on one GPU, the present one."""
        devices = {tensor.device for tensor in tensors}
        if all(device.type == "cuda" for device in devices) and devices == {self._device()}:
            return None
        return f"a CUDA graph needs tensors on the present GPU; these are on {', '.join(sorted(map(str, devices)))}"

    def warm_up(self, step: Step, tensors: Sequence[Tensor]) -> Any:
        """Run on the stream of the recordings to come."""
        stream, present = self._own_stream(), torch.cuda.current_stream()
        stream.wait_stream(present)
        with torch.cuda.stream(stream):
            result = step(*tensors)
        present.wait_stream(stream)
        return result

    def record(self, step: Step, tensors: Sequence[Tensor], modules: Sequence[nn.Module] = ()) -> Recorded:
        """Record one graph, which runs nothing, then replay it; run the step eagerly if that fails."""
        own = tuple(tensor.clone() for tensor in tensors)
        graph = torch.cuda.CUDAGraph()
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        try:
            with capturing(graph, self._pool, self._own_stream()):
                result = step(*own)
        except RuntimeError as error:
            self._pool = None  # it may be closed
            return Recorded(step(*tensors), reason=str(error).partition("\n")[0])

        def replay(*given: Tensor) -> Any:
            for mine, yours in zip(own, given, strict=True):
                mine.copy_(yours)
            graph.replay()
            return result

        return Recorded(replay(*tensors), replay)

    @staticmethod
    def _device() -> torch.device | None:
        return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else None

    def _own_stream(self) -> torch.cuda.Stream:
        self._stream = self._stream or torch.cuda.Stream()
        return self._stream
