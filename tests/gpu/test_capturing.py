"""What a capture that fails leaves behind on a GPU."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from slimkern.graphs.cuda import CudaGraphs

pytestmark = pytest.mark.gpu


def test_a_broken_capture_leaves_the_gpu_usable() -> None:
    stream, x = torch.cuda.current_stream(), torch.ones(1024, device="cuda")
    before = CudaGraphs().record(lambda x: F.dropout(x) + 1, (x,))
    assert before.replay is not None

    def waits(x: Tensor) -> Tensor:
        dropped = F.dropout(x)
        return dropped * (dropped.sum().item() > 0)

    graphs = CudaGraphs()
    broken = graphs.record(waits, (x,))
    assert broken.replay is None and broken.reason and "previous error" not in broken.reason
    assert torch.cuda.current_stream() == stream
    torch.cuda.empty_cache()  # refused while a capture is underway
    assert 0 < int(F.dropout(x).count_nonzero()) < len(x)  # refused while random numbers are being captured
    assert 0 < int((before.replay(x) > 1).sum()) < len(x)
    after = graphs.record(lambda x: F.dropout(x) + 1, (x,))
    assert after.replay is not None
    drawn = [after.replay(x).clone() for _ in range(2)]
    assert not torch.equal(*drawn)
