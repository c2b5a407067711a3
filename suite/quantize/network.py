"""The quantized network: a float network executed with a policy's weights and activations."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from suite.quantize.calibration import Calibration, quantizable_modules
from suite.quantize.folding import followed_by_batch_norm, scale_and_shift
from suite.quantize.steps import Grid, activation_grid, quantize, weight_grid
from suite.space import Layer, Policy, Precision


class QuantizedLayer(nn.Module):
    """A Conv2d or Linear whose inputs are rounded to a grid and whose weights already are.

    Inputs become integers ``clip(round(x / step), low, high)``; the step that turns them back into activations is a
    factor of the stored weight, so that no multiplication is spent on it. So is the scale of a batch norm that follows.
    """

    def __init__(self, layer: nn.Conv2d | nn.Linear) -> None:
        super().__init__()
        self._layer = [layer]  # in a list: the float layer is no submodule, its weights are not this network's state
        self.register_buffer("weight", torch.empty(0))
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach())
        self.weight: Tensor
        self.bias: Tensor | None
        self._scale: Tensor | None = None
        self.step = 1.0
        self.grid = Grid(0, 0)

    @property
    def folded(self) -> bool:
        """Whether it does the work of a batch norm."""
        return self._scale is not None

    @torch.no_grad()
    def fold(self, norm: nn.BatchNorm2d) -> None:
        """Take over the work of a batch norm in evaluation mode that follows; before :meth:`load`."""
        self._scale, shift = scale_and_shift(norm)
        self.bias = shift if self.bias is None else self.bias * self._scale + shift

    def load(self, weight: Tensor, step: float, grid: Grid) -> None:
        """Take over quantized weights (in units of the float weights), and the step and grid of the inputs."""
        scaled = weight * step
        if self._scale is not None:
            scaled *= self._scale.reshape(-1, 1, 1, 1)
        self.weight = scaled
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
        fold: Whether batch norms are folded into the quantized layers before them, which leaves the function as it is
            (quantization comes first) and saves time; without it their statistics can be recalibrated.
    """

    def __init__(
        self, network: nn.Module, layers: Sequence[Layer], calibration: Calibration, *, fold: bool = True
    ) -> None:
        super().__init__()
        self.calibration = calibration
        self.network, self._layers = replace_layers(network, [layer.name for layer in layers])
        if fold:
            fold_batch_norms(self.network, self._layers, followed_by_batch_norm(network))
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


def fold_batch_norms(network: nn.Module, layers: Mapping[str, QuantizedLayer], pairs: Mapping[str, str]) -> None:
    """Fold batch norms into quantized layers, in place; ``pairs`` as ``followed_by_batch_norm`` finds them."""
    for name, norm in pairs.items():
        if name in layers:
            module = network.get_submodule(norm)
            assert isinstance(module, nn.BatchNorm2d)
            layers[name].fold(module)
            substitute(network, module, nn.Identity())


def replace_layers(network: nn.Module, names: Sequence[str]) -> tuple[nn.Module, dict[str, QuantizedLayer]]:
    """Copy a network with the named layers replaced by :class:`QuantizedLayer`; parameters are shared, buffers copied."""
    shared = {id(parameter): parameter for parameter in network.parameters()}
    duplicate = copy.deepcopy(network, shared)
    replaced = {}
    for name, module in quantizable_modules(duplicate, names).items():
        replaced[name] = QuantizedLayer(module)
        substitute(duplicate, module, replaced[name])
    return duplicate, replaced


def substitute(network: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put a module in the place of another one, under every name that it has in the network."""
    for name, module in list(network.named_modules(remove_duplicate=False)):
        if module is old:
            network.set_submodule(name, new)
