from __future__ import annotations

import pytest
import torch

from slimkern.ops import triton
from slimkern.ops.convolution import Convolution

TAKEN = {"inputs": (8, 16), "outputs": (16, 32), "out_offset": 16, "in_offset": 8, "dtype": torch.float32, "image": 7}


def reason(**changed: object) -> str | None:
    call = TAKEN | changed
    shape = (call.get("batch", 2), call["image"], call["image"])
    slabs = [torch.empty(shape[0], count, *shape[1:], dtype=call["dtype"], device="meta") for count in call["inputs"]]
    weight = torch.empty(32, call.get("columns", 16), 3, 3, dtype=call["dtype"], device="meta")
    offsets = call["out_offset"], call["in_offset"]
    convolution = Convolution(weight, *offsets, (1, 1), (0, 0), (1, 1), call.get("groups", 1))
    return triton.why_not(slabs, convolution, call["outputs"])


def test_takes_multiples_of_8() -> None:
    assert reason() is None
    assert reason(dtype=torch.bfloat16) is None


def test_takes_any_few_channels_that_all_share() -> None:
    assert reason(inputs=(3,), columns=3, in_offset=0) is None
    assert (
        reason(inputs=(20,), columns=20, in_offset=0) == "channel counts and offsets must be multiples of 8, 20 isn't"
    )


def test_refuses_slabs_of_different_images() -> None:
    slabs = [torch.empty(2, 8, side, side, device="meta") for side in (7, 8)]
    convolution = Convolution(torch.empty(8, 8, 3, 3, device="meta"), 0, 0, (1, 1), (0, 0), (1, 1), 1)
    assert triton.why_not(slabs, convolution, (8, 8)) == "slabs must agree in batch and image"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        pytest.param({"dtype": torch.float64}, "torch.float64 is none of", id="float64"),
        pytest.param({"groups": 2}, "groups=2 must be 1", id="groups"),
        pytest.param({"inputs": (4, 16)}, "4 isn't", id="narrow_inputs"),
        pytest.param({"outputs": (10, 32)}, "10 isn't", id="odd_outputs"),
        pytest.param({"out_offset": 1}, "1 isn't", id="odd_offset"),
        pytest.param({"image": 2}, "the kernel is larger than the image", id="small_image"),
        pytest.param({"batch": 2**20, "image": 16}, "a tensor spans more than 2147483647 elements", id="large_slab"),
    ],
)
def test_refusals_name_their_reason(changed: dict[str, object], said: str) -> None:
    assert said in (reason(**changed) or "taken")
