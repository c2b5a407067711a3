"""The quantized network: a float network executed with a policy's weights and activations."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from suite.quantize.calibration import Calibration, quantizable_modules
from suite.quantize.steps import Grid, activation_grid, quantize, weight_grid
from suite.space import Layer, Policy, Precision


class QuantizedLayer(nn.Module):
    """A Conv2d or Linear whose inputs are rounded to a grid and whose weights already are.

    Inputs become integers ``clip(round(x / step), low, high)``; the step that turns them back into activations is a
    factor of the stored weight, so that no multiplication is spent on it.
    """

    def __init__(self, layer: nn.Conv2d | nn.Linear) -> None:
        super().__init__()
        self._layer = [layer]  # in a list: the float layer is no submodule, its weights are not this network's state
        self.bias = layer.bias
        self.register_buffer("weight", torch.empty(0), persistent=True)
        self.weight: Tensor
        self.step = 1.0
        self.grid = Grid(0, 0)

    def load(self, weight: Tensor, step: float, grid: Grid) -> None:
        """Take over quantized weights (in units of the float weights), and the step and grid of the inputs."""
        self.weight = weight * step
        self.step, self.grid = step, grid

    def forward(self, inputs: Tensor) -> Tensor:
        """Apply the layer; shapes as for the float layer."""
        levels = torch.div(inputs, self.step).round_().clamp_(self.grid.low, self.grid.high)
        return apply_layer(self._layer[0], levels, self.weight, self.bias)


def apply_layer(layer: nn.Conv2d | nn.Linear, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Apply a layer's operation (stride, padding, dilation and groups included) with other weights."""
    if isinstance(layer, nn.Conv2d):
        convolved: Tensor = layer._conv_forward(inputs, weight, bias)
        return convolved
    return nn.functional.linear(inputs, weight, bias)


class QuantizedNetwork(nn.Module):
    """A copy of a float network that executes any policy; the float network stays as it is.

    Parameters are shared with the float network, buffers (batch-norm statistics) are copied. Switching policies
    requantizes the weights of the layers whose precision changed and allocates nothing else.

    Args:
        network: Float network in evaluation mode.
        layers: Its quantizable layers in execution order.
        calibration: Steps for every layer and number of bits.
    """

    def __init__(self, network: nn.Module, layers: Sequence[Layer], calibration: Calibration) -> None:
        super().__init__()
        self.calibration = calibration
        self.network, self._layers = replace_layers(network, [layer.name for layer in layers])
        self._current: dict[str, Precision] = {}
        self.eval()

    @torch.no_grad()
    def set_policy(self, policy: Policy) -> None:
        """Quantize every layer to the policy's precision."""
        for (name, layer), precision in zip(self._layers.items(), policy.precisions, strict=True):
            if self._current.get(name) == precision:
                continue
            grid = activation_grid(precision.activation, self.calibration.inputs[name].signed)
            weight_step = self.calibration.weight_step(name, precision.weight)
            weight = quantize(self.calibration.weights[name], weight_step, weight_grid(precision.weight))
            layer.load(weight, self.calibration.activation_step(name, precision.activation), grid)
            self._current[name] = precision

    def forward(self, images: Tensor) -> Tensor:
        """Images in [0, 1], shape ``(batch, C, H, W)``, to logits, shape ``(batch, classes)``."""
        logits: Tensor = self.network(images)
        return logits


def replace_layers(network: nn.Module, names: Sequence[str]) -> tuple[nn.Module, dict[str, QuantizedLayer]]:
    """Copy a network with the named layers replaced by :class:`QuantizedLayer`; parameters are shared, buffers copied."""
    shared = {id(parameter): parameter for parameter in network.parameters()}
    duplicate = copy.deepcopy(network, shared)
    replaced = {}
    for name, module in quantizable_modules(duplicate, names).items():
        replaced[name] = QuantizedLayer(module)
        duplicate.set_submodule(name, replaced[name])
    return duplicate, replaced
