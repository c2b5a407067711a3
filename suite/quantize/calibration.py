"""Calibration: the inputs of a float network's layers under noise, and the quantizer steps fitted to them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from suite.contract.space import FLOAT_BITS, Precision
from suite.errors import BitcertError
from suite.networks.spiking import Leak
from suite.quantize.layer import Quantizable, channel_means
from suite.quantize.states import TAIL, StateLevels, state_grid, state_range
from suite.quantize.steps import Grid, activation_grid, fit_steps, quantize, weight_grid

SAMPLE = 2**14  # activation values kept per layer


@dataclass(frozen=True, slots=True, eq=False)
class SeenInputs:
    """Inputs of one layer during calibration.

    Attributes:
        signed: Whether any input was negative.
        values: An evenly spaced sample of the non-zero inputs of all calls, shape ``(1, at most SAMPLE)``.
        threshold: Of states, the potential at which neurons fire; None for other inputs.
    """

    signed: bool
    values: Tensor
    threshold: float | None = None

    @property
    def binary(self) -> bool:
        """Whether all inputs other than 0 were equal and positive, as spikes are: one bit holds them exactly."""
        low, high = torch.aminmax(self.values)
        return bool(low == high) and not self.signed

    def range(self) -> tuple[float, float]:
        """Range of the levels of states; see :func:`.states.state_range`."""
        assert self.threshold is not None
        quantiles = torch.quantile(self.values, torch.tensor([TAIL, 1 - TAIL], device=self.values.device))
        return state_range(float(quantiles[0]), float(quantiles[1]), self.threshold)


@dataclass(frozen=True, eq=False)
class Calibration:
    """Quantizer steps for every layer and bit width, each fitted on first use.

    Attributes:
        weights: Float weights by layer name.
        inputs: Inputs seen, by layer name.
        output_means: Mean of each output channel of the float layers, by layer name, shape ``(channels,)``.
        per_channel: Whether weights get one step per output channel rather than one per layer.
        ternary_inputs: Whether inputs of 2 bits have three levels rather than four.
        four_level_weights: Whether weights of 2 bits have four levels rather than three.
        state_levels: What states are rounded to, see :mod:`.states`.
        masters: Float weights of layers that have others for every bit width, by layer name and bits.
        norms: Scale and shift of the batch norm after a layer, where it has others for every precision.
    """

    weights: dict[str, Tensor]
    inputs: dict[str, SeenInputs]
    output_means: dict[str, Tensor] = field(default_factory=dict)
    per_channel: bool = True
    ternary_inputs: bool = False
    four_level_weights: bool = False
    state_levels: StateLevels = "integers"
    masters: Mapping[tuple[str, int], Tensor] = field(default_factory=dict)
    norms: Mapping[tuple[str, Precision], tuple[Tensor, Tensor]] = field(default_factory=dict)
    _weight_steps: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    _activation_steps: dict[tuple[str, int], float] = field(default_factory=dict)
    _state_grids: dict[tuple[str, int], Grid] = field(default_factory=dict)

    def master(self, name: str, bits: int) -> Tensor:
        """The float weights behind a bit width of a layer."""
        return self.masters.get((name, bits), self.weights[name])

    def weight_step(self, name: str, bits: int) -> Tensor:
        """Least-squares step of a layer's weights, shaped to broadcast with them: ``(C_out, 1, ...)`` or ``(1, 1, ...)``."""
        key = name, bits
        if key not in self._weight_steps:
            weight = self.master(name, bits)
            rows = weight.flatten(1) if self.per_channel else weight.flatten()[None]
            self._weight_steps[key] = fit_steps(rows, self.weight_grid(bits)).reshape(-1, *[1] * (weight.dim() - 1))
        return self._weight_steps[key]

    def quantized_weight(self, name: str, bits: int) -> Tensor:
        """A layer's weights at a bit width; 32 bits leave them as they are."""
        weight = self.master(name, bits)
        return weight if bits == FLOAT_BITS else quantize(weight, self.weight_step(name, bits), self.weight_grid(bits))

    def weight_grid(self, bits: int) -> Grid:
        """Grid of weights."""
        return weight_grid(bits, four_levels=self.four_level_weights)

    def activation_step(self, name: str, bits: int) -> float:
        """Least-squares step of a layer's inputs; 1 for levels in the units of the state."""
        if self.has_levels(name):
            return 1.0
        key = name, bits
        if key not in self._activation_steps:
            fitted = fit_steps(self.inputs[name].values, self.input_grid(name, bits))
            self._activation_steps[key] = float(fitted[0])
        return self._activation_steps[key]

    def input_grid(self, name: str, bits: int) -> Grid:
        """Grid of a layer's inputs: signed if any that was seen is negative."""
        if self.has_levels(name):
            return self._state_grid(name, bits)
        return activation_grid(bits, self.inputs[name].signed, ternary=self.ternary_inputs)

    def has_levels(self, name: str) -> bool:
        """Whether a layer's inputs are states whose levels are no multiples of a step."""
        return self.state_levels != "integers" and self.inputs[name].threshold is not None

    def has_constant_step(self, name: str) -> bool:
        """Whether the step of a layer's inputs is not to be trained: spikes, and levels in the units of the state."""
        return self.has_levels(name) or self.inputs[name].binary

    def state_ranges(self) -> dict[str, tuple[float, float]]:
        """Ranges of the levels of all such states."""
        return {name: self.inputs[name].range() for name in self.inputs if self.has_levels(name)}

    def _state_grid(self, name: str, bits: int) -> Grid:
        key, seen = (name, bits), self.inputs[name]
        if key not in self._state_grids:
            assert seen.threshold is not None
            self._state_grids[key] = state_grid(bits, self.state_levels, *seen.range(), seen.threshold)
        return self._state_grids[key]


def quantizable_modules(network: nn.Module, names: Sequence[str]) -> dict[str, Quantizable]:
    """The named modules of a network; raises BitcertError if one cannot be quantized, or has non-finite weights."""
    modules: dict[str, Quantizable] = {}
    for name in names:
        module = network.get_submodule(name)
        if not isinstance(module, Quantizable):
            raise BitcertError(f"layer {name!r} is a {type(module).__name__}; only Conv2d and Linear are quantized")
        if not torch.isfinite(module.weight).all():
            raise BitcertError(f"the weights of layer {name!r} are not finite; load another checkpoint or train again")
        modules[name] = module
    return modules


@torch.no_grad()
def calibrate(
    network: nn.Module,
    names: Sequence[str],
    batches: Iterable[Tensor],
    *,
    per_channel: bool = True,
    ternary_inputs: bool = False,
    four_level_weights: bool = False,
    state_levels: StateLevels = "integers",
) -> Calibration:
    """Run noisy calibration images through the float network and record what each layer sees.

    Args:
        network: Float network, in evaluation mode; it is not changed.
        names: Layers to calibrate.
        batches: Images with the problem's noise already added, each of shape ``(images, C, H, W)``.
        per_channel: Whether weights get one step per output channel.
        ternary_inputs: Whether inputs of 2 bits have three levels rather than four.
        four_level_weights: Whether weights of 2 bits have four levels rather than three.
        state_levels: What states are rounded to.

    Raises:
        BitcertError: On non-finite weights or activations, naming the layer, or if there are no images.
    """
    modules = quantizable_modules(network, names)
    collected: dict[str, list[Tensor]] = {name: [] for name in names}
    means: dict[str, list[Tensor]] = {name: [] for name in names}
    signed = dict.fromkeys(names, False)
    batches = list(batches)
    images = sum(len(batch) for batch in batches)
    if images == 0:
        raise BitcertError("calibration needs at least one image")
    share = SAMPLE

    def record(name: str, inputs: Tensor) -> None:
        if not torch.isfinite(inputs).all():
            raise BitcertError(f"layer {name!r} sees inputs that are not finite; check the checkpoint and the images")
        signed[name] = signed[name] or bool((inputs < 0).any())
        flat = inputs.flatten()  # a mask of one axis: of four it would take four indices for every value
        values = flat[flat != 0]
        collected[name].append(_thinned(values, share).clone())

    handles: list[RemovableHandle] = [
        module.register_forward_pre_hook(lambda _, arguments, name=name: record(name, arguments[0]))
        for name, module in modules.items()
    ]
    handles += [
        module.register_forward_hook(lambda _, __, outputs, name=name: means[name].append(channel_means(outputs)))
        for name, module in modules.items()
    ]
    try:
        for batch in batches:
            share = max(1, SAMPLE * len(batch) // images)
            network(batch)
    finally:
        for handle in handles:
            handle.remove()
    seen: dict[str, SeenInputs] = {}
    for name in names:
        if not collected[name]:
            raise BitcertError(f"layer {name!r} was never executed during calibration")
        values = _thinned(torch.cat(collected[name]), SAMPLE)  # several calls, each with its share
        module = modules[name]
        threshold = module.threshold if isinstance(module, Leak) else None
        seen[name] = SeenInputs(signed[name], values[None] if values.numel() else values.new_zeros(1, 1), threshold)
    weights = {name: module.weight.detach() for name, module in modules.items()}
    output_means = {name: torch.stack(found).mean(dim=0) for name, found in means.items()}
    return Calibration(weights, seen, output_means, per_channel, ternary_inputs, four_level_weights, state_levels)


def _thinned(values: Tensor, most: int) -> Tensor:
    """At most so many values, evenly spaced."""
    return values[:: max(1, math.ceil(values.numel() / most))]
