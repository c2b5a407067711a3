"""Batch norm folded into the layer before it: the same function, one pass over the activations less."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from suite.quantize.graph import argument, trace


def followed_by_batch_norm(network: nn.Module) -> dict[str, str]:
    """Find layers whose output goes into one batch norm and nowhere else.

    A network that ``torch.fx`` cannot trace has none: its batch norms are executed as modules, which is slower and the
    same function.

    Args:
        network: Any network; its convolutions and batch norms are still the modules of ``torch.nn``.

    Returns:
        Layer name -> name of its batch norm.
    """
    graph = trace(network)
    if graph is None:
        return {}
    called = [str(node.target) for node in graph.nodes if node.op == "call_module"]
    pairs = {}
    for node in graph.nodes:
        source = argument(node) if node.op == "call_module" else None
        if source is None or source.op != "call_module" or len(source.users) != 1:
            continue
        layer, norm = str(source.target), str(node.target)
        if called.count(layer) == called.count(norm) == 1 and _can_be_folded(network, layer, norm):
            pairs[layer] = norm
    return pairs


def scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """A batch norm in evaluation mode as ``scale * x + shift``, shape ``(channels,)`` each."""
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("a batch norm without running statistics is no affine map")
    scale = torch.rsqrt(norm.running_var + norm.eps)
    if norm.affine:
        scale = scale * norm.weight.detach()
    shift = -norm.running_mean * scale
    return scale, shift + norm.bias.detach() if norm.affine else shift


def _can_be_folded(network: nn.Module, layer: str, norm: str) -> bool:
    module = network.get_submodule(norm)
    statistics = isinstance(module, nn.BatchNorm2d) and module.running_mean is not None
    return statistics and isinstance(network.get_submodule(layer), nn.Conv2d)
