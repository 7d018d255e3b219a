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
        relus = [_relu_of(call) for call in calls]
        readers = [modules[name_of(relu)] for relu in relus if relu is not None and relu.op == "call_module"]
        norm.feeds_relu = bool(calls) and None not in relus and all(isinstance(own, nn.ReLU) for own in readers)
        norm.relus = tuple(readers) if norm.feeds_relu else ()


def _relu_of(node: fx.Node, additions: Sequence[str] = _ADDITIONS) -> fx.Node | None:
    """The call of a ReLU's function, or of what may be its module, that alone reads a node or its sum with another."""
    if len(node.users) != 1:
        return None
    (user,) = node.users
    if user.op == "call_module" or name_of(user) in ("relu", "relu_"):
        return user
    return _relu_of(user, ()) if name_of(user) in additions else None
