"""A network as a graph of calls, seen by ``torch.fx``, and the exchange of its modules."""

from __future__ import annotations

from torch import fx, nn


def trace(network: nn.Module, leaf: type[nn.Module] | None = None) -> fx.Graph | None:
    """The calls that a network makes, or None if ``torch.fx`` cannot trace it.

    Args:
        network: Any network; it is not changed.
        leaf: A kind of module whose calls are recorded as one, as those of the modules of ``torch.nn`` are.
    """
    try:
        return _Tracer(leaf).trace(network)
    except Exception:  # fx gives up on data-dependent control flow with many kinds of exceptions
        return None


def called_module(network: nn.Module, node: fx.Node) -> nn.Module | None:
    """The module that a node calls, None for other operations."""
    return network.get_submodule(str(node.target)) if node.op == "call_module" else None


def argument(node: fx.Node) -> fx.Node | None:
    """The node whose result is the first argument of another one, if it is one."""
    first = node.args[0] if node.args else None
    return first if isinstance(first, fx.Node) else None


def substitute(network: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put a module in the place of another one, under every name that it has in the network."""
    for name, module in list(network.named_modules(remove_duplicate=False)):
        if module is old:
            network.set_submodule(name, new)


class _Tracer(fx.Tracer):
    def __init__(self, leaf: type[nn.Module] | None) -> None:
        super().__init__()
        self._leaf = leaf

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        leaf = self._leaf is not None and isinstance(m, self._leaf)
        return leaf or super().is_leaf_module(m, module_qualified_name)
