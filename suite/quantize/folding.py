"""Batch norm folded into the layer before it: the same function with one pass fewer over the activations."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from suite.quantize.graph import argument, trace


def followed_by_batch_norm(network: nn.Module) -> dict[str, str]:
    """Map each convolution whose output goes into one batch norm and nowhere else to that batch norm, by name.

    Empty if ``torch.fx`` cannot trace the network: its batch norms then run as modules, the same function but slower.
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
        if called.count(layer) == called.count(norm) == 1 and isinstance(network.get_submodule(layer), nn.Conv2d):
            module = network.get_submodule(norm)
            if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
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
