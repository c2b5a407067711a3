"""The quantized network: a float network executed with a policy's weights and activations."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from suite.contract.space import FLOAT_BITS, Layer, Policy, Precision
from suite.quantize.batch_norm import Statistics, update_statistics
from suite.quantize.calibration import Calibration, quantizable_modules
from suite.quantize.folding import followed_by_batch_norm
from suite.quantize.graph import substitute
from suite.quantize.layer import QuantizedLayer
from suite.quantize.memory import economize


class QuantizedNetwork(nn.Module):
    """A copy of a float network that executes any policy; the float network does not change.

    Parameters are shared with the float network; buffers (batch-norm statistics) are copied. Switching policies requantizes
    the weights of the layers whose precision changed and allocates nothing else.

    Args:
        network: Float network in evaluation mode.
        layers: Its quantizable layers in execution order.
        calibration: Steps for every layer and bit width.
        fold: Whether batch norms are folded into the quantized layers before them: the same function (quantization comes
            first), faster.
        fast: Whether activations are overwritten in place and laid out in memory as convolutions prefer: the same function
            up to the order of summation; see :mod:`suite.quantize.memory`.

    Attributes:
        policy: What it executes; None before the first call of :meth:`set_policy`.
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
        self.network = copy.deepcopy(network, {id(parameter): parameter for parameter in network.parameters()})
        self._layers: dict[str, QuantizedLayer] = {}
        for name, module in quantizable_modules(self.network, [layer.name for layer in layers]).items():
            self._layers[name] = QuantizedLayer(module)
            substitute(self.network, module, self._layers[name])
        if calibration.norms and not fold:
            raise ValueError("batch norms of every precision are switched where they are folded")
        for name, norm in followed_by_batch_norm(network).items() if fold else ():
            if name in self._layers:
                batch_norm = self.network.get_submodule(norm)
                assert isinstance(batch_norm, nn.BatchNorm2d)
                self._layers[name].fold(batch_norm)
                substitute(self.network, batch_norm, nn.Identity())
        self.layers = tuple(self._layers)
        self._current: dict[str, Precision] = {}
        self.policy: Policy | None = None
        self.eval()
        if fast:
            economize(self.network)

    @torch.no_grad()
    def set_policy(self, policy: Policy) -> None:
        """Quantize every layer to the policy's precision; 32 bits leave weights or inputs as they are."""
        for (name, layer), precision in zip(self._layers.items(), policy.precisions, strict=True):
            if self._current.get(name) == precision:
                continue
            if (name, precision) in self.calibration.norms:
                layer.set_norm(*self.calibration.norms[name, precision])
            weight = self.calibration.quantized_weight(name, precision.weight)
            rounded = precision.weight != FLOAT_BITS
            weight_step = self.calibration.weight_step(name, precision.weight) if rounded else None
            if precision.activation == FLOAT_BITS:
                layer.load(weight, 1.0, None, weight_step)
            else:
                grid = self.calibration.input_grid(name, precision.activation)
                step = self.calibration.activation_step(name, precision.activation)
                layer.load(weight, step, grid, weight_step)
            self._current[name] = precision
        self.policy = policy

    def update_statistics(self, batches: Iterable[Tensor], statistics: Statistics) -> None:
        """Recalibrate batch norms, or correct biases, for the present policy; see :func:`.batch_norm.update_statistics`."""
        self._measure_statistics(batches, statistics)

    def _measure_statistics(
        self, batches: Iterable[Tensor], statistics: Statistics, settled: Sequence[QuantizedLayer] = ()
    ) -> None:
        means = {layer: self.calibration.output_means[name] for name, layer in self._layers.items()}
        update_statistics(self, batches, statistics, means, settled)

    def forward(self, images: Tensor) -> Tensor:
        """Images in [0, 1], shape ``(batch, C, H, W)``, to logits, shape ``(batch, classes)``."""
        logits: Tensor = self.network(images)
        return logits
