from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from slimkern.continual.branches.etf import AdaptLayer, Classifier, EquiangularHead, equiangular_frame


@pytest.mark.parametrize(("features", "columns"), [(256, 100), (256, 150), (16, 16), (5, 2)])
def test_the_frame_is_an_equiangular_one(features: int, columns: int) -> None:
    frame = equiangular_frame(features, columns).double()
    expected = columns / (columns - 1) * (torch.eye(columns) - torch.ones(columns, columns) / columns).double()
    assert frame.shape == (features, columns)
    torch.testing.assert_close(frame.t() @ frame, expected, atol=1e-6, rtol=0)


def test_frames_are_drawn_at_random() -> None:
    torch.manual_seed(0)
    one, other = (equiangular_frame(8, 4) for _ in range(2))
    torch.manual_seed(0)
    assert not torch.allclose(one, other) and torch.equal(equiangular_frame(8, 4), one)


@pytest.mark.parametrize("columns", [0, 1, 9])
def test_frames_that_do_not_exist_are_refused(columns: int) -> None:
    with pytest.raises(ValueError, match=f"an equiangular frame of {columns} columns needs 2 to 8 of them"):
        equiangular_frame(8, columns)


def test_the_neck_is_the_formula() -> None:
    torch.manual_seed(0)
    neck, f = AdaptLayer(6).double(), torch.randn(5, 6, dtype=torch.float64)
    for own in neck.parameters():
        torch.nn.init.normal_(own, std=0.3)

    def normed(x: torch.Tensor, norm: torch.nn.LayerNorm) -> torch.Tensor:
        centred = x - x.mean(1, keepdim=True)
        return centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt() * norm.weight + norm.bias

    def phi(x: torch.Tensor) -> torch.Tensor:
        return torch.where(x > 0, x, 0.1 * x)

    inner = phi(normed(f @ neck.first.weight.t() + neck.first.bias, neck.norm1))
    inner = phi(normed(inner @ neck.second.weight.t() + neck.second.bias, neck.norm2))
    expected = f @ neck.skip.weight.t() + inner @ neck.last.weight.t() + neck.last.bias
    torch.testing.assert_close(neck(f), expected)


def test_the_published_neck_has_its_size() -> None:
    assert sum(own.numel() for own in AdaptLayer(128).parameters()) == 494_848


def test_the_head_normalises_over_the_batch_and_then_each_vector() -> None:
    torch.manual_seed(0)
    head, adapted = EquiangularHead(8, 3), torch.randn(6, 8)
    v = (adapted - adapted.mean(0)) / (adapted.var(0, unbiased=False) + head.norm.eps).sqrt()
    h = v / v.norm(dim=1, keepdim=True)
    torch.testing.assert_close(head.directions(adapted), h)
    torch.testing.assert_close(head(adapted), h @ head.frame)


def test_the_frame_is_not_learned_but_stored() -> None:
    classifier = Classifier(4, 3)
    assert "head.frame" in classifier.state_dict()
    assert "head.frame" not in dict(classifier.named_parameters())
    features = torch.randn(5, 4)
    torch.testing.assert_close(classifier.eval()(features), classifier.directions(features) @ classifier.head.frame)
    assert torch.allclose(classifier.directions(features).norm(dim=1), torch.ones(5))
    assert F.normalize(torch.zeros(1, 3), eps=1e-8).isfinite().all()
