"""The quantized network: a float network executed with a policy's weights and activations."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from suite.contract.space import FLOAT_BITS, Layer, Policy, Precision
from suite.quantize.calibration import Calibration, quantizable_modules
from suite.quantize.folding import followed_by_batch_norm
from suite.quantize.graph import substitute
from suite.quantize.layer import QuantizedLayer
from suite.quantize.memory import economize
from suite.quantize.steps import activation_grid


class QuantizedNetwork(nn.Module):
    """A copy of a float network that executes any policy; the float network stays as it is.

    Parameters are shared with the float network, buffers (batch-norm statistics) are copied. Switching policies
    requantizes the weights of the layers whose precision changed and allocates nothing else.

    Args:
        network: Float network in evaluation mode.
        layers: Its quantizable layers in execution order.
        calibration: Steps for every layer and bit width.
        fold: Whether batch norms are folded into the quantized layers before them, which leaves the function as it is
            (quantization comes first) and saves time; without it their statistics can be recalibrated.
        fast: Whether activations are overwritten in place and arranged in memory as convolutions want them, which
            leaves the function as it is but for the order of summation; see :mod:`suite.quantize.memory`.
    """

    def __init__(
        self,
        network: nn.Module,
        layers: Sequence[Layer],
        calibration: Calibration,
        *,
        fold: bool = True,
        fast: bool = True,
    ) -> None:
        super().__init__()
        self.calibration = calibration
        self.network, self._layers = replace_layers(network, [layer.name for layer in layers])
        if fold:
            fold_batch_norms(self.network, self._layers, followed_by_batch_norm(network))
        self.layers = tuple(self._layers)
        self._current: dict[str, Precision] = {}
        self.eval()
        if fast:
            economize(self.network)

    @torch.no_grad()
    def set_policy(self, policy: Policy) -> None:
        """Quantize every layer to the policy's precision; weights or inputs of 32 bits are left as they are."""
        for (name, layer), precision in zip(self._layers.items(), policy.precisions, strict=True):
            if self._current.get(name) == precision:
                continue
            weight = self.calibration.quantized_weight(name, precision.weight)
            if precision.activation == FLOAT_BITS:
                layer.load(weight, 1.0, None)
            else:
                grid = activation_grid(precision.activation, self.calibration.inputs[name].signed)
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
