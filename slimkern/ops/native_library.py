"""Loading the libraries of compiled kernels, and whether they are those that this version calls."""

from __future__ import annotations

import torch

from slimkern.ops.native_report import read_report
from slimkern.shared_objects import PACKAGE, why_cut_short

LIBRARIES = {name: PACKAGE / f"libslimkern_{name}.so" for name in ("cpu", "cuda")}

SCHEMAS = {
    "batch_norm_forward": "(Tensor[] slabs, Tensor? weight, Tensor? bias, int[] offsets, Tensor? running_mean, "
    "Tensor? running_var, float eps, Tensor[] residuals, bool relu, Tensor? moments=None) -> "
    "(Tensor[], Tensor, Tensor)",
    "batch_norm_backward": "(Tensor[] grads, Tensor[] slabs, Tensor[] results, Tensor? weight, Tensor? bias, "
    "int[] offsets, Tensor mean, Tensor variance, bool batch_statistics, float eps, bool relu, bool to_slabs, "
    "Tensor(a!)? to_weight, Tensor(b!)? to_bias) -> (Tensor[], Tensor[])",
    "pack_weights": "(Tensor[] weights, int[] parts, Tensor(a!) packed) -> ()",
    "pack_weights_backward": "(Tensor packed, int[] parts, Tensor(a!)[] to_weights) -> ()",
    "ragged_head": "(Tensor[] slabs, Tensor weight, Tensor? bias, Tensor labels, int in_offset, int first, int last) "
    "-> (Tensor, Tensor[], Tensor)",
    "ragged_head_backward": "(Tensor to_losses, Tensor[] to_logits, Tensor[] logits, Tensor pooled, Tensor weight, "
    "Tensor labels, int in_offset, int first, int last, int[] channels, Tensor(a!)[] to_slabs, "
    "Tensor(b!)? to_weight, Tensor(c!)? to_bias) -> ()",
    "winograd_scatter": "(Tensor images) -> Tensor",
    "winograd_gather": "(Tensor products, Tensor bias, Tensor? added, int images, int height, int width) -> Tensor",
}
"""The operators as they are called here: those of csrc/library.cpp, unless the library is that of another version."""

ON_CPU_ONLY = {"winograd_scatter", "winograd_gather"}


def load(part: str) -> str | None:
    """Load the library for a type of device; why it can't be used, if it can't, as a rule in the linker's own words."""
    library = LIBRARIES[part]
    if not library.is_file():
        report = read_report()
        if reason := report.left_out.get(part):
            return reason
        if part in report.parts:
            return f"{library.name} is gone, though the build made it"
        return "; ".join(filter(None, ["not compiled when slimkern was installed", report.problem]))
    try:
        if reason := why_cut_short(library):
            return reason
        torch.ops.load_library(str(library))
    except (OSError, RuntimeError) as error:
        return f"{library.name} can't be loaded: {error.__cause__ or error}"  # torch puts the linker's words there
    if lacking := [name for name in SCHEMAS if not _as_called(name, part)]:
        return f"{library.name} is stale: as this version calls them, it lacks {', '.join(lacking)}"
    return None


def _as_called(name: str, part: str) -> bool:
    """Whether an operator has the schema that is called here, and a kernel for this type of device if it needs one."""
    full = f"slimkern_native::{name}"
    try:
        schema = torch._C._get_schema(full, "")
    except RuntimeError:
        return False
    serves = torch._C._dispatch_has_kernel_for_dispatch_key(full, part.upper())
    return schema == torch._C.parse_schema(full + SCHEMAS[name]) and (
        serves or (part == "cuda" and name in ON_CPU_ONLY)
    )
