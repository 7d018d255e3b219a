from __future__ import annotations

import json

import pytest
import torch

from tests.continual.methods.trajectories import NAMES, RECORDED, trajectory


@pytest.mark.parametrize("method", NAMES)
def test_a_run_of_two_tasks_is_the_recorded_one(method: str) -> None:
    recorded, found = json.loads(RECORDED.read_text(encoding="utf-8"))[method], trajectory(method)
    assert len(found["losses"]) == len(recorded["losses"]) == 4
    for epoch, (own, expected) in enumerate(zip(found["losses"], recorded["losses"], strict=True)):
        assert own == pytest.approx(expected, rel=2e-3, abs=1e-4), f"epoch {epoch} of both tasks"
    assert found["scores"].keys() == recorded["scores"].keys() == {"0.25", "0.5", "1"}
    for width, scores in found["scores"].items():
        expected = torch.tensor(recorded["scores"][width])
        torch.testing.assert_close(torch.tensor(scores), expected, rtol=5e-3, atol=5e-3)


def test_methods_differ_in_their_second_task() -> None:
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))
    assert set(recorded) == set(NAMES)
    ends = {json.dumps(own["scores"]) for own in recorded.values()}
    assert len(ends) == len(NAMES)
