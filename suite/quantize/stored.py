"""Quantized networks as tensors: integers of every layer and what scales them, so that a file can be checked against a policy."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from suite.contract.space import Policy, SearchSpace
from suite.errors import BitcertError
from suite.quantize.calibration import Calibration
from suite.quantize.layer import Integers, QuantizedLayer
from suite.quantize.network import QuantizedNetwork
from suite.quantize.steps import Grid

Groups = dict[str, dict[str, Tensor]]
_PARTS = ("weight", "scale", "bias", "step")


def quantized_layers(network: nn.Module) -> dict[str, QuantizedLayer]:
    """The quantized layers of a network, by name."""
    return {name: module for name, module in network.named_modules() if isinstance(module, QuantizedLayer)}


def store_network(network: nn.Module) -> Groups:
    """All that a quantized network computes with.

    Returns:
        ``weight`` (8-bit integers), ``scale``, ``bias`` and ``step`` of every quantized layer, and ``thresholds`` of inputs that
        learned theirs; ``rest``: every other parameter and buffer.

    Raises:
        BitcertError: If a layer is not quantized, or its integers have more than 8 bits.
    """
    inner = network.network if isinstance(network, QuantizedNetwork) else network
    layers, groups = quantized_layers(inner), Groups()
    for name, layer in layers.items():
        found = layer.integers()
        if found is None or found.weight.abs().max() > 127:
            raise BitcertError(f"layer {name} has no weights as integers of 8 bits, so its network cannot be stored")
        parts = (found.weight.to(torch.int8), found.scale, found.bias, torch.tensor(layer.step, dtype=torch.float64))
        for part, tensor in zip(_PARTS, parts, strict=True):
            groups.setdefault(part, {})[name] = tensor
        if layer.grid is not None and layer.grid.thresholds is not None:
            groups.setdefault("thresholds", {})[name] = torch.tensor(layer.grid.thresholds, dtype=torch.float64)
    rest = _rest(inner, layers)
    return groups | ({"rest": rest} if rest else {})


def restore_network(
    like: nn.Module, groups: Mapping[str, Mapping[str, Tensor]], space: SearchSpace, policy: Policy, steps: Calibration
) -> nn.Module:
    """The network that :func:`store_network` took apart; what does not belong to the policy is refused.

    Args:
        like: A quantized network of the same policy for inference; it becomes the result.
        groups: The tensors.
        space: Whose layers they are.
        policy: Whose levels they must lie on.
        steps: Knows the grids of weights.

    Raises:
        BitcertError: If tensors are missing or have other shapes, numbers are not finite, or weights lie on no level of the policy.
    """
    layers, rest = quantized_layers(like), _rest(like, quantized_layers(like))
    wanted = {part: dict.fromkeys(layers) for part in _PARTS} | ({"rest": dict.fromkeys(rest)} if rest else {})
    found = {part: dict.fromkeys(named) for part, named in groups.items() if part != "thresholds"}
    if found != wanted:
        raise BitcertError("the weights are not those of this network: other layers or tensors")
    for name, tensor in rest.items():
        _check(name, groups["rest"][name], tensor.shape, tensor.dtype)
    precisions = dict(zip((layer.name for layer in space.layers), policy.precisions, strict=True))
    for name, layer in layers.items():
        weight, scale, bias, step = (groups[part][name] for part in _PARTS)
        channels = torch.Size([len(layer.weight)])
        _check(name, weight, layer.weight.shape, torch.int8)
        _check(name, scale, channels, torch.float32)
        _check(name, bias, channels, torch.float32)
        _check(name, step, torch.Size(), torch.float64)
        if scale.min() < 0 or step <= 0:
            raise BitcertError(f"the weights of layer {name} have a scale below 0 or a step that is not above it")
        integers, grid = weight.float(), steps.weight_grid(precisions[name].weight)
        signs = [(grid.nearest(sign * integers) == sign * integers).flatten(1).all(dim=1) for sign in (1, -1)]
        if not (signs[0] | signs[1]).all():
            raise BitcertError(f"weights of layer {name} lie on no level of {precisions[name].weight} bits")
        layer.restore(Integers(integers, scale, bias), float(step), _grid(layer, groups, name))
    missing = like.load_state_dict(dict(groups.get("rest", {})), strict=False)
    assert not missing.unexpected_keys
    return like


def _rest(network: nn.Module, layers: Mapping[str, QuantizedLayer]) -> dict[str, Tensor]:
    owned = {f"{name}.{part}" for name in layers for part in ("weight", "bias")}
    return {name: tensor for name, tensor in network.state_dict().items() if name not in owned}


def _grid(layer: QuantizedLayer, groups: Mapping[str, Mapping[str, Tensor]], name: str) -> Grid | None:
    thresholds = groups.get("thresholds", {}).get(name)
    if (thresholds is None) == (layer.grid is None or layer.grid.thresholds is None):
        if thresholds is None or layer.grid is None:
            return layer.grid
        _check(name, thresholds, torch.Size([2]), torch.float64)
        return layer.grid._replace(thresholds=(float(thresholds[0]), float(thresholds[1])))
    raise BitcertError(f"the inputs of layer {name} have thresholds, or have none, against their precision")


def _check(name: str, tensor: Tensor, shape: torch.Size, dtype: torch.dtype) -> None:
    if tensor.shape != shape or tensor.dtype != dtype:
        raise BitcertError(
            f"{name} has shape {tuple(tensor.shape)} and type {tensor.dtype}, not {tuple(shape)} and {dtype}"
        )
    if tensor.is_floating_point() and not tensor.isfinite().all():
        raise BitcertError(f"{name} has numbers that are not finite")
