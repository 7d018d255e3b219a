from __future__ import annotations

import re
from pathlib import Path

import pytest

breakdown = pytest.importorskip("bench_step_breakdown")
NORMS, CONVOLUTIONS, UPDATE, HEADS = breakdown.GROUPS
OURS, NATIVE = "void slimkern::(anonymous namespace)::", "void at::native::"


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("aten::mkldnn_convolution", CONVOLUTIONS),
        ("aten::convolution_backward", CONVOLUTIONS),
        ("sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc", CONVOLUTIONS),
        ("sm80_xmma_wgrad_implicit_gemm_indexed_tf32f32", CONVOLUTIONS),
        ("void cudnn::ops::nchwToNhwcKernel<float>", CONVOLUTIONS),
        ("gather_boxes", CONVOLUTIONS),
        ("sum_pixels", CONVOLUTIONS),
        ("add_partial_sums", CONVOLUTIONS),
        (OURS + "pack_kernel<float>(Parts)", CONVOLUTIONS),
        ("slimkern_native::batch_norm_backward", NORMS),
        (OURS + "normalise_kernel<c10::BFloat16>(Rows)", NORMS),
        (OURS + "moments_kernel<float>(Rows)", NORMS),
        (OURS + "differentiate_kernel<float>(Rows)", NORMS),
        (OURS + "reduce_kernel<float>(Rows)", NORMS),
        ("void cudnn::bn_fw_tr_1C11_kernel_NCHW<float>", NORMS),
        (NATIVE + "vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>, 3>", NORMS),
        (NATIVE + "(anonymous namespace)::launch_clamp_scalar<float>", NORMS),
        ("aten::add_", NORMS),
        (NATIVE + "(anonymous namespace)::multi_tensor_apply_kernel<FusedSgdMathFunctor<float>>", UPDATE),
        ("aten::_foreach_norm", UPDATE),
        ("slimkern_native::ragged_head_backward", HEADS),
        (OURS + "heads_kernel<float>(Heads)", HEADS),
        (NATIVE + "(anonymous namespace)::nll_loss_forward_reduce_cuda_kernel_2d", HEADS),
        (NATIVE + "reduce_kernel<512, 1, at::native::ReduceOp<float>>", breakdown.REST),
        ("aten::empty", breakdown.REST),
    ],
)
def test_operators_and_kernels_are_told_by_their_names(name: str, group: str) -> None:
    assert breakdown.group_of(name) == group


ROOT = Path(__file__).resolve().parents[2]
CALLED_BY_KERNELS = {"device_functions.py", "scroll_conv2d_row.py"}


def names_of_kernels() -> set[str]:
    """Those of all kernels in CUDA and in Triton's language."""
    cuda = {
        name
        for path in (ROOT / "csrc" / "cuda").iterdir()
        for name in re.findall(r"__global__[^;{]*?\b(\w+)\(\s*(?!\w+\))", _without_bounds(path))
    }
    triton = {
        name
        for path in (ROOT / "slimkern" / "kernels").glob("*.py")
        if path.name not in CALLED_BY_KERNELS
        for name in re.findall(r"@triton\.jit\ndef ([a-z]\w*)\(", path.read_text(encoding="utf-8"))
    }
    return cuda | triton


def _without_bounds(path: Path) -> str:
    return re.sub(r"__launch_bounds__\([^)]*\)", "", path.read_text(encoding="utf-8"))


def test_every_kernel_of_ours_has_a_group() -> None:
    names = names_of_kernels()
    assert {"gather", "gather_few_channels", "add_partial_sums", "pack_kernel", "norms_kernel"} <= names
    assert sorted(name for name in names if breakdown.group_of(name) == breakdown.REST) == []
    in_full = {name: breakdown.group_of(f"{OURS}{name}<float>(Rows)") for name in names if name.endswith("_kernel")}
    assert in_full == {name: breakdown.group_of(name) for name in in_full}
