"""Which batch norms feed a ReLU."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx, nn

from slimkern.nn.scroll_layer import ScrollLayer
from slimkern.nn.switchable_batch_norm import SwitchableBatchNorm2d
from slimkern.nn.tracing import name_of, trace

_ADDITIONS = ("add", "add_", "iadd")


def notice_relus(net: nn.Module) -> None:
    """Tell the batch norms of a slimmable network whether nothing but a ReLU, or an addition before one, reads them.

    The forward pass is traced symbolically; where that fails, none is told so.
    """
    modules = dict(net.named_modules())
    norms = {name: module for name, module in modules.items() if isinstance(module, SwitchableBatchNorm2d)}
    leaves = [module for module in modules.values() if isinstance(module, (ScrollLayer, SwitchableBatchNorm2d))]
    try:
        nodes = trace(net, leaves)
    except Exception:  # torch.fx raises whatever the traced code does
        nodes = []
    for name, norm in norms.items():
        calls = [node for node in nodes if node.op == "call_module" and node.target == name]
        norm.feeds_relu = bool(calls) and all(_feeds_relu(call, modules) for call in calls)


def _feeds_relu(node: fx.Node, modules: dict[str, nn.Module], additions: Sequence[str] = _ADDITIONS) -> bool:
    if len(node.users) != 1:
        return False
    (user,) = node.users
    if user.op == "call_module":
        return isinstance(modules[name_of(user)], nn.ReLU)
    return name_of(user) in ("relu", "relu_") or (name_of(user) in additions and _feeds_relu(user, modules, ()))
