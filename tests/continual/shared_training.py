"""What two processes do in `test_processes.py`: `torchrun ... shared_training.py FILE` stores what process 0 found."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimkern.continual.config import TrainConfig
from slimkern.continual.processes import Processes, joined_processes
from slimkern.continual.scroll_policies import make_scroll_policy
from slimkern.continual.training import Trainer
from slimkern.nn import SwitchableBatchNorm2d
from slimkern.width_batch import WidthBatch
from tests.continual.few_digits import TINY, Listener, few_digits

CONFIG = replace(TINY, batch_size=9, classes=8, learning_rate=1e-4, momentum=0.0)
"""Its tasks have 36 images: four batches of 9, so that one process gets 5 and the other 4.

A low rate, as the kinks of ReLUs would otherwise make different runs of float32's rounding.
"""
CONFIGS = {
    "ewc": replace(CONFIG, method="ewc"),
    "icarl": replace(CONFIG, method="icarl", exemplars=24, selection="random", widths=(2.0,)),
    "bic": replace(CONFIG, method="bic", exemplars=24, widths=(2.0,)),
    # Without margin ranking, which is a mean over old classes' images and so differs with who gets them.
    "lucir": replace(CONFIG, method="lucir", exemplars=24, widths=(2.0,), options={"margin_strength": 0.0}),
}


def trained(config: TrainConfig, processes: Processes) -> dict[str, Any]:
    """A whole run: the losses of its epochs, and how all weights of the backbone moved.

    Process 1 sets out with other weights and would scroll otherwise.
    """
    trainer, told = Trainer(config, few_digits(), torch.device("cpu"), processes), Listener()
    before = flat(trainer.net.backbone)
    if processes.rank:
        for parameter in trainer.net.parameters():
            torch.nn.init.ones_(parameter)
        trainer.scroll_policy = make_scroll_policy(replace(config, scroll_step=3))
    trainer.run(told)
    return {"losses": [epoch.losses for epoch in told.epochs], "moved": flat(trainer.net.backbone) - before}


def flat(net: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in net.parameters()])


def normalised(processes: Processes) -> dict[str, Any]:
    """A batch norm of three widths, forward and backward, with the images of this process alone."""
    torch.manual_seed(0)
    widths, norm = (0.25, 0.5, 1.0), SwitchableBatchNorm2d(8, widths=(0.25, 0.5, 1.0), dtype=torch.float64)
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter)
    whole = [torch.randn(5, channels, 3, 2, dtype=torch.float64) + 100 for channels in norm.sizes]
    factors = [torch.randn_like(slab) for slab in whole]
    own = slice(processes.rank, None, processes.count)
    slabs = [slab[own].clone().requires_grad_() for slab in whole]
    alone = norm(whole[-1])
    with processes.one_batch(norm):
        results = F.relu(norm(WidthBatch(slabs, widths))).slabs
        full_width = norm(slabs[-1])
    loss = sum((result * factor[own]).sum() for result, factor in zip(results, factors, strict=True))
    (loss + (full_width * factors[-1][own]).sum()).backward()
    gradients = [parameter.grad for parameter in norm.parameters() if parameter.grad is not None]
    processes.add_up(gradients)
    return {
        "parameters": gradients,
        "buffers": dict(norm.named_buffers()),
        "alone": alone,
        "inputs": [slab.grad for slab in slabs],
        "results": [result.detach() for result in results],
    }


def main() -> None:
    with joined_processes(torch.device("cpu")) as processes:
        sent = processes.broadcast({"from": processes.rank, "tensor": torch.arange(3)})
        found = {
            "sent": sent,
            "count": processes.count,
            "normalised": normalised(processes),
            "trained": {name: trained(config, processes) for name, config in CONFIGS.items()},
        }
        if processes.rank == 0:
            torch.save(found, sys.argv[1])
        else:
            assert sent["from"] == 0 and sent["tensor"].tolist() == [0, 1, 2]


if __name__ == "__main__":
    main()
