"""Quantizers that learn: LSQ, PACT and DoReFa behind straight-through gradients, and the network they train."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from suite.contract.space import FLOAT_BITS, Layer, Policy, Precision
from suite.errors import BitcertError
from suite.networks.orthogonal import constrained
from suite.quantize.calibration import Calibration, quantizable_modules
from suite.quantize.fatnn import TernaryInputs, TernaryWeights
from suite.quantize.folding import followed_by_batch_norm
from suite.quantize.graph import substitute
from suite.quantize.layer import Quantizable, QuantizedLayer, apply_layer
from suite.quantize.memory import economize
from suite.quantize.steps import LEAST_STEP, Grid

Scheme = Literal["lsq", "fixed", "pact", "dorefa", "fatnn"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)


def straight_through(quantized: Tensor, values: Tensor) -> Tensor:
    """The quantized numbers forward, the gradient of ``values`` backward (Bengio et al., arXiv 1308.3432)."""
    return values + (quantized - values).detach()


class _QuantizeLearned(torch.autograd.Function):
    """LSQ's quantizer with explicit gradients: three times as fast as autograd through the single operations."""

    @staticmethod
    def forward(context: Any, values: Tensor, step: Tensor, grid: Grid, gradient_scale: float) -> Tensor:
        scaled = torch.div(values, step)
        levels = grid.nearest(scaled)
        inside = (scaled >= grid.low) & (scaled <= grid.high)
        context.save_for_backward(inside, levels - scaled.mul_(inside))
        context.shape, context.gradient_scale = step.shape, gradient_scale
        return levels.mul_(step)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        inside, by_step = context.saved_tensors
        of_values = gradient * inside if context.needs_input_grad[0] else None
        of_step = (by_step * gradient).sum_to_size(context.shape).mul_(context.gradient_scale)
        return of_values, of_step, None, None


class LearnedStep(nn.Module):
    """LSQ: uniform quantizer whose step is trained (Esser et al., ICLR 2020, equations 1 to 5).

    On the grid of -1 and 1, LSQ's gradients are those of a sign whose straight-through gradient ends at one step.

    Args:
        step: Starting step; any shape that broadcasts with the values.
        grid: Levels.
        values_per_step: Values that share one step; its gradient is scaled by ``1 / sqrt(values_per_step * high)``.
        learned: Whether the step is trained rather than a constant.
    """

    step: Tensor

    def __init__(self, step: Tensor, grid: Grid, values_per_step: int, *, learned: bool = True) -> None:
        super().__init__()
        step = step.detach().clone()
        if learned:
            self.step = nn.Parameter(step)
        else:
            self.register_buffer("step", step)
        self.grid = grid
        self._gradient_scale = 1.0 / math.sqrt(values_per_step * grid.high)

    @staticmethod
    def initial_step(values: Tensor, grid: Grid) -> Tensor:
        """LSQ's initialization, ``2 * mean|v| / sqrt(high)``, a scalar."""
        return 2 * values.abs().mean() / math.sqrt(grid.high)

    def forward(self, values: Tensor) -> Tensor:
        """Quantize; same shape."""
        quantized: Tensor = _QuantizeLearned.apply(values, self.positive_step(), self.grid, self._gradient_scale)
        return quantized

    def positive_step(self) -> Tensor:
        """The step, clamped to be positive."""
        return self.step.clamp(min=LEAST_STEP)


class LearnedClip(nn.Module):
    """PACT: inputs are clipped at a trained level, then quantized uniformly (Choi et al., arXiv 1805.06085, equations 1 to 3).

    Args:
        clip: Starting clipping level, positive.
        grid: Levels; a signed grid clips at ``+-clip`` and leaves its lowest level out (PACT itself is defined for
            unsigned inputs).
    """

    def __init__(self, clip: float, grid: Grid) -> None:
        super().__init__()
        self.clip = nn.Parameter(torch.tensor(clip))
        self.grid = grid._replace(low=-grid.high) if grid.low < 0 else grid

    def forward(self, values: Tensor) -> Tensor:
        """Quantize; same shape. The clip's gradient is 1 above the clip (-1 below ``-clip``), 0 inside."""
        clip = self.clip.clamp(min=1e-8)
        clipped = torch.minimum(values, clip)
        clipped = torch.maximum(clipped, -clip) if self.grid.low < 0 else clipped.clamp(min=0)
        step = self.positive_step().detach()
        quantized = self.grid.nearest(torch.div(clipped.detach(), step)) * step
        return straight_through(quantized, clipped)

    def positive_step(self) -> Tensor:
        """The step between levels."""
        return self.clip.clamp(min=1e-8) / self.grid.high


class FixedStep(nn.Module):
    """Uniform quantizer with a constant step and the clipped straight-through gradient.

    Args:
        step: Any shape that broadcasts with the values.
        grid: Levels.
    """

    def __init__(self, step: Tensor, grid: Grid) -> None:
        super().__init__()
        self.register_buffer("step", step.detach().clone())
        self.step: Tensor
        self.grid = grid

    def forward(self, values: Tensor) -> Tensor:
        """Quantize; same shape."""
        scaled = torch.div(values, self.step).clamp(self.grid.low, self.grid.high)
        return straight_through(self.grid.nearest(scaled.detach()), scaled) * self.step

    def positive_step(self) -> Tensor:
        """The step."""
        return self.step


class TanhWeights(nn.Module):
    """DoReFa: tanh-normalized weights on ``2^bits`` levels in [-1, 1], none of them 0 (Zhou et al., arXiv 1606.06160, section 2.3).

    At 1 bit these are -1 and 1, by the sign of the weight.

    The levels are multiplied by ``<w, v> / <v, v>``, so that a trained network starts close to where it was; DoReFa itself
    trains from scratch and leaves the scale to batch norm.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        self._intervals = 2**bits - 1

    def forward(self, weight: Tensor) -> Tensor:
        """Quantize; same shape."""
        levels, scale = self._levels(weight)
        return levels * scale

    def step_of(self, weight: Tensor) -> Tensor:
        """What quantized weights are odd multiples of, a scalar."""
        step: Tensor = self._levels(weight)[1] / self._intervals
        return step

    def _levels(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        squashed = torch.tanh(weight)
        unit = squashed / (2 * squashed.abs().max().clamp(min=1e-8)) + 0.5
        levels = 2 * straight_through((unit * self._intervals).round() / self._intervals, unit) - 1
        with torch.no_grad():
            scale = (weight * levels).sum() / levels.square().sum()
        return levels, scale


class TrainableLayer(nn.Module):
    """A Conv2d or Linear with float master weights that computes with quantized ones.

    Where the float layer constrains its weights, the masters are mapped onto the set before they are quantized.
    """

    def __init__(
        self,
        layer: Quantizable,
        weights: nn.Module,
        inputs: LearnedStep | LearnedClip | FixedStep | TernaryInputs | nn.Identity,
    ) -> None:
        super().__init__()
        self._layer = [layer]  # in a list: its parameters would be counted twice
        weight = layer.weight.detach().clone()
        if isinstance(layer.weight, nn.Parameter):
            self.weight: Tensor = nn.Parameter(weight)
        else:
            self.register_buffer("weight", weight)
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().clone())
        self.quantize_weights = weights
        self.quantize_inputs = inputs

    @property
    def float_layer(self) -> Quantizable:
        """The float layer, for its stride, padding, dilation and groups."""
        return self._layer[0]

    def forward(self, inputs: Tensor) -> Tensor:
        """Apply the layer; shapes as for the float layer."""
        return apply_layer(self._layer[0], self.quantize_inputs(inputs), self.quantized_weight(), self.bias)

    def master(self) -> Tensor:
        """The float weights that are quantized."""
        return constrained(self._layer[0], self.weight)

    def quantized_weight(self) -> Tensor:
        """The weights that the layer computes with."""
        quantized: Tensor = self.quantize_weights(self.master())
        return quantized

    @torch.no_grad()
    def freeze(self, norm: nn.BatchNorm2d | None = None) -> QuantizedLayer:
        """The layer for inference, with the batch norm that follows folded in if given."""
        if isinstance(self.quantize_inputs, nn.Identity):
            raise BitcertError("a layer whose inputs are not quantized cannot be frozen")
        frozen = QuantizedLayer(self._layer[0], None if self.bias is None else self.bias.detach().clone())
        if norm is not None:
            frozen.fold(norm)
        quantizer = self.quantize_weights
        weight_step = quantizer.step_of(self.master()) if isinstance(quantizer, TanhWeights | TernaryWeights) else None
        if isinstance(quantizer, LearnedStep | FixedStep):
            weight_step = quantizer.positive_step()
        step = float(self.quantize_inputs.positive_step())
        frozen.load(self.quantized_weight(), step, self.quantize_inputs.grid, weight_step)
        return frozen


class TrainableNetwork(nn.Module):
    """A copy of a float network, quantized to one policy, that can be finetuned and then frozen.

    Starts from post-training quantization (the calibration's least-squares steps), so zero finetuning steps change nothing
    with ``lsq`` and ``fixed``. Weights or inputs of 32 bits are not quantized.

    Args:
        network: Float network; it is not changed.
        layers: Its quantizable layers in execution order.
        policy: The precision of each.
        calibration: Steps to start from.
        scheme: ``"lsq"`` (learned steps for both), ``"fixed"`` (weights at their calibrated steps, learned steps for
            inputs), ``"pact"`` (learned clip for inputs, DoReFa weights), ``"dorefa"`` (DoReFa weights, inputs as
            calibrated) or ``"fatnn"`` (two learned thresholds for ternary weights and ternary inputs, ``"lsq"`` elsewhere).
    """

    def __init__(
        self,
        network: nn.Module,
        layers: Sequence[Layer],
        policy: Policy,
        calibration: Calibration,
        scheme: Scheme = "lsq",
    ) -> None:
        super().__init__()
        if scheme not in SCHEMES:
            raise BitcertError(f"unknown quantizer {scheme!r}; known: {', '.join(SCHEMES)}")
        self.network = copy.deepcopy(network).requires_grad_(True)
        self.scheme = scheme
        self._norms = followed_by_batch_norm(network)
        modules = quantizable_modules(self.network, [layer.name for layer in layers])
        for layer, precision in zip(layers, policy.precisions, strict=True):
            module = modules[layer.name]
            self._inherit(layer.name, module, precision, calibration)
            weights = _weight_quantizer(layer, precision.weight, module.weight, calibration, scheme)
            inputs = _input_quantizer(layer, precision.activation, calibration, scheme)
            substitute(self.network, module, TrainableLayer(module, weights, inputs))

    def forward(self, images: Tensor) -> Tensor:
        """Images in [0, 1], shape ``(batch, C, H, W)``, to logits, shape ``(batch, classes)``."""
        logits: Tensor = self.network(images)
        return logits

    @torch.no_grad()
    def _inherit(self, name: str, module: Quantizable, precision: Precision, calibration: Calibration) -> None:
        """Take over weights and a batch norm that belong to a precision alone."""
        if (name, precision.weight) in calibration.masters:
            module.weight.copy_(calibration.masters[name, precision.weight])
        if (name, precision) in calibration.norms:
            norm = self.network.get_submodule(self._norms[name])
            assert isinstance(norm, nn.BatchNorm2d)
            for parameter, inherited in zip((norm.weight, norm.bias), calibration.norms[name, precision], strict=True):
                parameter.copy_(inherited)

    def layers(self) -> dict[str, TrainableLayer]:
        """The quantized layers by name."""
        return {name: module for name, module in self.network.named_modules() if isinstance(module, TrainableLayer)}

    def clips(self) -> list[nn.Parameter]:
        """PACT's clipping levels, on which an L2 penalty belongs; empty for the other schemes."""
        return [module.clip for module in self.modules() if isinstance(module, LearnedClip)]

    def scales(self) -> list[nn.Parameter]:
        """All learned steps, thresholds and clipping levels."""
        ternary = [module for module in self.modules() if isinstance(module, TernaryWeights | TernaryInputs)]
        steps = [module.step for module in self.modules() if isinstance(module, LearnedStep | TernaryInputs)]
        return self.clips() + parameters(steps) + [module.slopes for module in ternary]

    def freeze(self) -> nn.Module:
        """A network for inference, in evaluation mode, with quantized weights."""
        frozen = copy.deepcopy(self.network)
        for name, module in list(frozen.named_modules()):
            if isinstance(module, TrainableLayer):
                norm = frozen.get_submodule(self._norms[name]) if name in self._norms else None
                assert norm is None or isinstance(norm, nn.BatchNorm2d)
                substitute(frozen, module, module.freeze(norm))
                if norm is not None:
                    substitute(frozen, norm, nn.Identity())
        frozen.eval().requires_grad_(False)
        economize(frozen)
        return frozen


def parameters(tensors: Iterable[Tensor]) -> list[nn.Parameter]:
    """Those of several tensors that are trained."""
    return [tensor for tensor in tensors if isinstance(tensor, nn.Parameter)]


def _weight_quantizer(layer: Layer, bits: int, weight: Tensor, calibration: Calibration, scheme: Scheme) -> nn.Module:
    if bits == FLOAT_BITS:
        return nn.Identity()
    if layer.kind == "state":
        return learned_weights(layer, bits, calibration)
    if scheme in ("pact", "dorefa"):
        return TanhWeights(bits)
    steps = calibration.weight_step(layer.name, bits)
    if scheme == "fixed":
        return FixedStep(steps, calibration.weight_grid(bits))
    if scheme == "fatnn" and bits == 2 and not calibration.four_level_weights:
        return TernaryWeights(weight.detach(), steps)
    return learned_weights(layer, bits, calibration)


def learned_weights(layer: Layer, bits: int, calibration: Calibration) -> LearnedStep:
    """LSQ for a layer's weights, from the calibrated steps; leaks are constants, and so are their steps."""
    steps = calibration.weight_step(layer.name, bits)
    share = calibration.weights[layer.name].numel() // steps.numel()
    return LearnedStep(steps, calibration.weight_grid(bits), share, learned=layer.kind != "state")


def learned_inputs(layer: Layer, bits: int, calibration: Calibration) -> LearnedStep:
    """LSQ for a layer's inputs, from the calibrated step; that of spikes, and of the levels of states, is a constant."""
    grid, step = calibration.input_grid(layer.name, bits), calibration.activation_step(layer.name, bits)
    learned = not calibration.has_constant_step(layer.name)
    return LearnedStep(torch.tensor(step), grid, input_size(layer), learned=learned)


def _input_quantizer(
    layer: Layer, bits: int, calibration: Calibration, scheme: Scheme
) -> LearnedStep | LearnedClip | FixedStep | TernaryInputs | nn.Identity:
    if bits == FLOAT_BITS:
        return nn.Identity()
    if calibration.has_constant_step(layer.name):
        return learned_inputs(layer, bits, calibration)
    grid = calibration.input_grid(layer.name, bits)
    step = calibration.activation_step(layer.name, bits)
    if scheme == "fatnn" and bits == 2 and calibration.ternary_inputs:
        return TernaryInputs(step, grid)
    if scheme == "pact":
        return LearnedClip(step * grid.high, grid)
    if scheme == "dorefa":
        return FixedStep(torch.tensor(step), grid)
    return learned_inputs(layer, bits, calibration)


def input_size(layer: Layer) -> int:
    """Input values of a layer per image."""
    return layer.in_channels * layer.input_size[0] * layer.input_size[1]
