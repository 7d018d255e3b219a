from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from slimkern.continual.branches.folding import folded
from slimkern.continual.branches.grouped import base_maps, grouped
from slimkern.continual.branches.network import Branches, BranchNet
from slimkern.models.branching_resnet import BaseLayer, ExpandLayer


def lively(layer: nn.Module) -> nn.Module:
    """Gives batch norms statistics and parameters that do something."""
    for module in layer.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    return layer


def branches(count: int, channels: int = 8) -> list[ExpandLayer]:
    torch.manual_seed(0)
    made = [ExpandLayer(channels) for _ in range(count)]
    for branch in made:
        lively(branch)
    return made


def maps(channels: int = 8) -> Tensor:
    return torch.randn(4, channels, 6, 6, generator=torch.Generator().manual_seed(1))


def assert_alike(given: Tensor, expected: Tensor) -> None:
    assert (given - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("training", [(False, False, False), (False, False, True), (True, True, True)], ids=str)
def test_the_grouped_pass_equals_a_loop(training: tuple[bool, ...]) -> None:
    together, apart, x = branches(3), branches(3), maps()
    for group in (together, apart):
        for branch, own in zip(group, training, strict=True):
            branch.train(own)
    results = grouped(together, x)
    for result, branch in zip(results, apart, strict=True):
        assert_alike(result, branch(x))
    for one, other in zip(together, apart, strict=True):
        for (name, own), expected in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
            torch.testing.assert_close(own, expected, msg=name)


def test_gradients_of_the_newest_branch_equal_those_of_a_loop_and_the_frozen_ones_have_none() -> None:
    together, apart, x = branches(3), branches(3), maps()
    for group in (together, apart):
        for branch in group[:2]:
            branch.eval().requires_grad_(False)
    results = grouped(together, x)
    assert [result.requires_grad for result in results] == [False, False, True]
    torch.stack(results).sum(0).square().sum().backward()
    torch.stack([branch(x) for branch in apart]).sum(0).square().sum().backward()
    for branch in together[:2]:
        assert all(own.grad is None for own in branch.parameters())
    for own, expected in zip(together[2].parameters(), apart[2].parameters(), strict=True):
        assert own.grad is not None and expected.grad is not None
        assert_alike(own.grad, expected.grad)


def test_gradients_reach_the_maps_and_folded_parameters() -> None:
    (branch,), x = branches(1), maps().requires_grad_()
    grouped([branch.eval()], x)[0].square().sum().backward()
    found = [own.grad for own in (x, *branch.parameters())]
    x.grad = None
    branch.zero_grad()
    branch(x).square().sum().backward()
    for own, expected in zip(found, (x, *branch.parameters()), strict=True):
        assert own is not None and expected.grad is not None
        assert_alike(own, expected.grad)


@pytest.mark.parametrize("training", [False, True])
def test_the_base_layer_gives_its_maps(training: bool) -> None:
    torch.manual_seed(0)
    base = lively(BaseLayer(1, 2)).train(training)
    assert isinstance(base, BaseLayer)
    images, twin = torch.randn(3, 1, 8, 8), copy.deepcopy(base)
    assert_alike(base_maps(base, images), twin(images))


def test_what_is_folded_follows_the_parameters_and_is_no_state() -> None:
    (branch,) = branches(1)
    block = branch.eval().blocks[0]
    names = set(branch.state_dict())
    with torch.no_grad():
        before = folded(block.conv1, block.bn1)
        assert folded(block.conv1, block.bn1)[0] is before[0]
        block.bn1.running_var.mul_(4)
        after = folded(block.conv1, block.bn1)
        assert not torch.equal(before[0], after[0])
        branch.load_state_dict(branches(1)[0].state_dict())
        torch.testing.assert_close(folded(block.conv1, block.bn1), before)
    assert set(branch.state_dict()) == names


def test_the_mean_of_one_branch_is_itself() -> None:
    net = BranchNet(1, 2)
    net.expand()
    images = torch.randn(3, 1, 8, 8)
    features = net.eval().backbone(images)
    assert torch.equal(net.fused(features), features)


def test_a_new_branch_is_a_copy_of_the_newest_and_learns() -> None:
    backbone = Branches(1, 2)
    backbone.expand()
    lively(backbone.layers()[0]).requires_grad_(False)
    backbone.expand()
    old, new = backbone.layers()
    for own, expected in zip(new.state_dict().values(), old.state_dict().values(), strict=True):
        assert torch.equal(own, expected) and own.data_ptr() != expected.data_ptr()
    assert all(own.requires_grad for own in new.parameters())
    images = torch.randn(2, 1, 8, 8)
    features = backbone.eval()(images)
    assert torch.equal(features[:, : backbone.width], features[:, backbone.width :])


def test_a_network_of_the_same_growth_takes_the_weights() -> None:
    net, other = BranchNet(1, 2), BranchNet(1, 2)
    for columns in (4, 6):
        net.expand()
        net.renew(columns)
    assert net.growth() == [2, 6] and other.growth() == [0]
    other.grow_to(net.growth())
    other.load_state_dict(net.state_dict())
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(net.eval()(images), other.eval()(images)) and net(images).shape == (2, 6)
