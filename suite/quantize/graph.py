"""A network as a graph of calls, traced by ``torch.fx``, and the replacement of its modules."""

from __future__ import annotations

from torch import fx, nn

from suite.networks.recurrent import Read
from suite.networks.spiking import Spike


def trace(network: nn.Module, leaf: type[nn.Module] | tuple[type[nn.Module], ...] = ()) -> fx.Graph | None:
    """The calls that a network makes, or None if ``torch.fx`` cannot trace it.

    Modules of class ``leaf``, or of one of several, are not traced into, like those of ``torch.nn``, reads
    and spikes.
    """
    own = leaf if isinstance(leaf, tuple) else (leaf,)

    class Tracer(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return isinstance(m, (Read, Spike, *own)) or super().is_leaf_module(m, module_qualified_name)

    try:
        return Tracer().trace(network)
    except Exception:  # fx gives up on data-dependent control flow with many kinds of exceptions
        return None


def called_module(network: nn.Module, node: fx.Node) -> nn.Module | None:
    """The module that a node calls, None for other operations."""
    return network.get_submodule(str(node.target)) if node.op == "call_module" else None


def argument(node: fx.Node) -> fx.Node | None:
    """The node whose result is a node's first argument, if there is one."""
    first = node.args[0] if node.args else None
    return first if isinstance(first, fx.Node) else None


def substitute(network: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Replace a module under every name that it has in the network."""
    for name, module in list(network.named_modules(remove_duplicate=False)):
        if module is old:
            network.set_submodule(name, new)
