from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from slimkern.continual.branches.frozen import frozen_convolution, serves
from slimkern.continual.branches.grouped import base_maps, grouped
from slimkern.models.branching_resnet import BaseLayer, ExpandLayer
from slimkern.ops import native, winograd
from tests.continual.branches.test_grouped import assert_alike, branches, lively, maps

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_frozen_branches_give_what_a_loop_gives_for_images_of_any_number_and_size(layout: torch.memory_format) -> None:
    frozen = [branch.eval().requires_grad_(False) for branch in branches(3)]
    for shape in ((4, 8, 6, 6), (1, 8, 6, 6), (9, 8, 5, 7)):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(2)).contiguous(memory_format=layout)
        kept = x.clone()
        assert serves(frozen[0].modules(), x)
        for result, branch in zip(grouped(frozen, x), frozen, strict=True):
            assert_alike(result, branch(x))
        assert torch.equal(x, kept)


def test_wide_branches_give_what_a_loop_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    frozen = [lively(ExpandLayer(64)).eval().requires_grad_(False) for _ in range(2)]
    x, transformed = torch.randn(3, 64, 10, 12), []
    monkeypatch.setattr(
        winograd, "transformed", lambda weight, own=winograd.transformed: transformed.append(1) or own(weight)
    )
    for _ in range(2):
        for result, branch in zip(grouped(frozen, x), frozen, strict=True):
            assert_alike(result, branch(x))
    # All convolutions of a branch but the first, which has a stride, and each weight once.
    assert len(transformed) == (2 * 9 if native.why_unavailable("cpu") is None else 0)


def test_a_frozen_base_layer_gives_its_maps() -> None:
    torch.manual_seed(0)
    base = lively(BaseLayer(1, 2)).eval().requires_grad_(False)
    assert isinstance(base, BaseLayer)
    images = torch.randn(3, 1, 8, 8)
    assert serves(base.modules(), images)
    assert_alike(base_maps(base, images), copy.deepcopy(base)(images))


def test_what_is_kept_follows_every_parameter_and_statistic() -> None:
    (branch,), x = branches(1), maps()
    with torch.no_grad():
        before = grouped([branch.eval()], x)[0]
        for own in (*branch.parameters(), *branch.buffers()):
            if own.is_floating_point():
                own.mul_(1.1)
                assert_alike(grouped([branch], x)[0], branch(x))
        assert not torch.allclose(grouped([branch], x)[0], before)


def test_what_learns_or_computes_otherwise_is_not_served() -> None:
    (branch,), x = branches(1), maps()
    branch.eval()
    assert not serves(branch.modules(), x)
    with torch.no_grad():
        assert serves(branch.modules(), x)
        assert not serves(branch.modules(), x.double())
        assert not serves(branch.modules(), x.to("meta"))
        with torch.autocast("cpu", torch.bfloat16):
            assert not serves(branch.modules(), x)
        with torch.backends.mkldnn.flags(enabled=False):
            assert not serves(branch.modules(), x)
    with torch.inference_mode():
        assert not serves(branch.modules(), x)
    branch.requires_grad_(False)
    assert serves(branch.modules(), x)
    assert not serves(branch.modules(), maps().requires_grad_())
    branch.blocks[2].train()
    assert not serves(branch.modules(), x)
    assert not serves([nn.BatchNorm2d(3)], x)


def test_empty_batches_and_another_eps_are_heeded() -> None:
    conv, norm = nn.Conv2d(64, 64, 3, padding=1, bias=False), lively(nn.BatchNorm2d(64))
    norm.eval()
    x = torch.randn(2, 64, 5, 5)
    with torch.no_grad():
        assert frozen_convolution(conv, norm, x[:0]).shape == (0, 64, 5, 5)
        before = frozen_convolution(conv, norm, x)
        norm.eps = 1.0
        after = frozen_convolution(conv, norm, x)
        assert not torch.allclose(before, after)
        assert_alike(after, norm(conv(x)).relu())


def test_padding_by_other_than_zeros_is_not_served() -> None:
    circular = nn.Conv2d(3, 3, 3, padding=1, padding_mode="circular").eval().requires_grad_(False)
    assert not serves([circular], torch.randn(1, 3, 5, 5))
