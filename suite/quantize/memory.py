"""Memory of activations: which may be overwritten, and their layout.

Both are decided once, on the graph of the network's calls; a network that cannot be traced is left alone. Modules are only
told how to work: what runs is the network's own ``forward``.
"""

from __future__ import annotations

import operator

import torch
from torch import fx, nn
from torch.nn import functional

from suite.quantize.graph import argument, called_module, trace
from suite.quantize.layer import QuantizedLayer

_NEW_MEMORY = (QuantizedLayer, nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.ReLU, nn.ReLU6)
_ARITHMETIC = (operator.add, operator.sub, operator.mul, operator.truediv)

_POOLING = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
_POOLING_FUNCTIONS = (functional.max_pool2d, functional.avg_pool2d, functional.adaptive_avg_pool2d)
_ACTIVATIONS = (torch.relu, functional.relu, functional.relu6)
_OTHER_FUNCTIONS = (operator.getitem, torch.add, torch.cat, torch.flatten, torch.mean, functional.pad)

_ANY_LAYOUT_MODULES = (*_NEW_MEMORY, *_POOLING, nn.Identity, nn.Dropout, nn.Flatten)
_ANY_LAYOUT_FUNCTIONS = (*_ARITHMETIC, *_OTHER_FUNCTIONS, *_ACTIVATIONS, *_POOLING_FUNCTIONS)
_ANY_LAYOUT_METHODS = ("add", "flatten", "mean", "permute", "relu", "reshape", "size")

Calls = dict[nn.Module, list[fx.Node]]
"""Every called module, with its calls."""


def economize(network: nn.Module) -> None:
    """Apply both optimizations in place, to a network in evaluation mode with its quantized layers in place."""
    calls = _calls(network)
    overwrite_inputs(network, calls)
    arrange_channels_last(network, calls)


def overwrite_inputs(network: nn.Module, calls: Calls | None = None) -> None:
    """Let quantized layers, ReLUs and ReLU6s overwrite their inputs where nothing else reads them.

    Results are equal to the last bit. This saves allocations and the page faults of fresh memory.

    Args:
        network: In evaluation mode, with its quantized layers in place.
        calls: Its calls, if they are known.
    """
    for module, nodes in (_calls(network) if calls is None else calls).items():
        if all(_is_disposable(network, argument(node)) for node in nodes):
            if isinstance(module, QuantizedLayer):
                module.overwrites = True
            elif isinstance(module, nn.ReLU | nn.ReLU6):
                module.inplace = True


def arrange_channels_last(network: nn.Module, calls: Calls | None = None) -> None:
    """Keep activations channels-last, which is faster for convolutions on a CPU; other devices are left alone.

    Results are equal up to the order of summation. Excluded are convolutions whose output reaches an operation that may
    depend on memory layout, such as ``view``, before the next quantized convolution. Arguments are those of
    :func:`overwrite_inputs`.
    """
    for module, nodes in (_calls(network) if calls is None else calls).items():
        if isinstance(module, QuantizedLayer) and module.is_convolution and module.weight.device.type == "cpu":
            module.channels_last = all(_any_layout_will_do(network, node) for node in nodes)


def _calls(network: nn.Module) -> Calls:
    graph = trace(network, leaf=QuantizedLayer)
    calls: Calls = {}
    for node in () if graph is None else graph.nodes:
        module = called_module(network, node)
        if module is not None:
            calls.setdefault(module, []).append(node)
    return calls


def _is_disposable(network: nn.Module, node: fx.Node | None) -> bool:
    """Whether a result has one reader and owns its memory."""
    if node is None or len(node.users) != 1:
        return False
    module = called_module(network, node)
    passes_on = (
        isinstance(module, nn.Identity)
        or (isinstance(module, nn.ReLU | nn.ReLU6) and module.inplace)
        or (node.op == "call_function" and node.target in _ARITHMETIC)  # torch.fx records "x += y" as "x + y"
    )
    return _is_disposable(network, argument(node)) if passes_on else isinstance(module, _NEW_MEMORY)


def _any_layout_will_do(network: nn.Module, node: fx.Node) -> bool:
    """Whether everything between a result and the next quantized convolutions works on any memory layout."""
    seen, waiting = {node}, [node]
    while waiting:
        for user in waiting.pop().users:
            module = called_module(network, user)
            if user in seen or (isinstance(module, QuantizedLayer) and module.is_convolution):
                continue
            if not (
                user.op == "output"
                or isinstance(module, _ANY_LAYOUT_MODULES)
                or (user.op == "call_function" and user.target in _ANY_LAYOUT_FUNCTIONS)
                or (user.op == "call_method" and user.target in _ANY_LAYOUT_METHODS)
            ):
                return False
            seen.add(user)
            waiting.append(user)
    return True
