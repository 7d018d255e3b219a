from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from slimkern.continual.config import ConfigError
from slimkern.continual.processes import ALONE, Processes, joined_processes
from tests.continual import shared_training

ROOT = Path(__file__).resolve().parents[2]


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Two processes of one thread each."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What process 0 of two finds."""
    pytest.importorskip("sklearn")
    file = tmp_path_factory.mktemp("shared") / "found.pt"
    done = torchrun(shared_training.__file__, str(file))
    assert done.returncode == 0, done.stderr
    return torch.load(file)


@pytest.mark.parametrize("name", shared_training.CONFIGS)
def test_two_processes_train_as_one_does(shared: dict[str, Any], name: str) -> None:
    together, alone = shared["trained"][name], shared_training.trained(shared_training.CONFIGS[name], ALONE)
    assert shared["count"] == 2
    torch.testing.assert_close(together["losses"], alone["losses"], rtol=1e-3, atol=1e-4)
    assert (together["moved"] - alone["moved"]).norm() < 0.01 * alone["moved"].norm()


def test_batch_norms_count_both_batches_as_one(shared: dict[str, Any]) -> None:
    found, wanted = shared["normalised"], shared_training.normalised(ALONE)
    for name in ("parameters", "buffers", "alone"):
        torch.testing.assert_close(found[name], wanted[name])
    for name in ("inputs", "results"):
        torch.testing.assert_close(found[name], [tensor[::2] for tensor in wanted[name]])


def test_what_process_0_knows_is_told(shared: dict[str, Any]) -> None:
    assert shared["sent"]["from"] == 0


def test_a_process_alone_does_nothing_special() -> None:
    images, labels = torch.rand(3, 1, 2, 2), torch.arange(3)
    with joined_processes(torch.device("cpu")) as processes:
        assert processes == ALONE
        part, own, share = processes.share(images, labels)
        assert part is images and own is labels and share == 1.0
        processes.add_up([images])
        assert processes.broadcast({"task": 1}) == {"task": 1}


def test_shares_are_disjoint_and_cover_the_batch() -> None:
    images, labels = torch.rand(7, 1, 2, 2), torch.arange(7)
    parts = [Processes(rank, 3).share(images, labels) for rank in range(3)]
    assert sorted(label for _, own, _ in parts for label in own.tolist()) == list(range(7))
    assert sum(share for *_, share in parts) == pytest.approx(1)
    for part, own, _ in parts:
        assert torch.equal(part, images[own])


def test_fewer_images_than_processes_are_refused() -> None:
    with pytest.raises(ConfigError, match="a batch of 2 images can't be shared by 3 processes"):
        Processes(0, 3).share(torch.rand(2, 1, 1, 1), torch.arange(2))
