"""The switchable network: one set of trainable weights that computes at any policy, with learned steps for every bit width."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from suite.contract.space import Layer, Pin, Policy, Precision
from suite.errors import unknown_name
from suite.networks.orthogonal import constrained
from suite.quantize.calibration import Calibration, quantizable_modules
from suite.quantize.folding import followed_by_batch_norm
from suite.quantize.graph import substitute
from suite.quantize.layer import Quantizable, apply_layer
from suite.quantize.trainable import LearnedStep, input_size, learned_inputs, learned_weights, parameters

Norms = Literal["shared", "weights", "pairs"]
NORMS: tuple[Norms, ...] = get_args(Norms)
Start = Literal["fitted", "lsq"]


@dataclass(frozen=True, slots=True)
class Sharing:
    """What the bit widths of a layer have in common.

    Attributes:
        private_weights: Whether every bit width has weights of its own; else all of them quantize the same weights.
        norms: Whether the batch norm after a layer is ``"shared"``, or there is one for each bit width of the ``"weights"``, or
            for each of the ``"pairs"`` of bit widths of weights and inputs. A batch norm that does not follow a single layer is
            always shared.
    """

    private_weights: bool = False
    norms: Norms = "shared"

    def __post_init__(self) -> None:
        if self.norms not in NORMS:
            raise unknown_name("value of norms", self.norms, NORMS)


class SwitchableLayer(nn.Module):
    """A Conv2d or Linear that computes at any of several bit widths.

    Attributes:
        bits: Bit widths of the weights, and of the inputs.
        masters: Float weights: one tensor for all bit widths, or one for each; none of a layer whose weights are constants.
        weights, inputs: A learned quantizer for each bit width.
        norms: The batch norms after the layer, unless they are shared; see :class:`Sharing`.
        precision: The bit widths in use.
    """

    def __init__(
        self,
        module: Quantizable,
        layer: Layer,
        bits: tuple[tuple[int, ...], tuple[int, ...]],
        calibration: Calibration,
        sharing: Sharing,
        norm: nn.Module | None,
        start: Start,
    ) -> None:
        super().__init__()
        self.bits = bits
        self._layer = [module]  # in a list: its parameters would have two names
        copies = len(bits[0]) - 1 if sharing.private_weights else 0
        own = [module.weight] if isinstance(module.weight, nn.Parameter) else []
        self.masters = nn.ParameterList([*own, *(copy.deepcopy(weight) for weight in own for _ in range(copies))])
        self.bias = module.bias
        self.weights = nn.ModuleList(_weight_quantizer(layer, choice, calibration, start) for choice in bits[0])
        self.inputs = nn.ModuleList(_input_quantizer(layer, choice, calibration, start) for choice in bits[1])
        self._pairs = sharing.norms == "pairs"
        norms = len(bits[0]) * (len(bits[1]) if self._pairs else 1)
        self.norms = nn.ModuleList([] if norm is None else [copy.deepcopy(norm) for _ in range(norms)])
        self.precision = Precision(bits[0][-1], bits[1][-1])

    def master(self, bits: int) -> Tensor:
        """The float weights behind a bit width."""
        if not len(self.masters):
            return self._layer[0].weight
        master = self.masters[self.bits[0].index(bits) if len(self.masters) > 1 else 0]
        assert isinstance(master, nn.Parameter)
        return master

    def float_weight(self, bits: int) -> Tensor:
        """What is quantized at a bit width: the masters, on the set of a layer that constrains its weights."""
        return constrained(self._layer[0], self.master(bits))

    def weight_step(self, bits: int) -> LearnedStep:
        """The quantizer of weights at a bit width."""
        quantizer = self.weights[self.bits[0].index(bits)]
        assert isinstance(quantizer, LearnedStep)
        return quantizer

    def input_step(self, bits: int) -> LearnedStep:
        """The quantizer of inputs at a bit width."""
        quantizer = self.inputs[self.bits[1].index(bits)]
        assert isinstance(quantizer, LearnedStep)
        return quantizer

    def norm(self, precision: Precision) -> nn.Module | None:
        """The batch norm of a precision; None if it is shared or there is none."""
        if not len(self.norms):
            return None
        position = self.bits[0].index(precision.weight)
        if self._pairs:
            position = position * len(self.bits[1]) + self.bits[1].index(precision.activation)
        return self.norms[position]

    def quantized_weight(self, bits: int) -> Tensor:
        """The weights at a bit width."""
        quantized: Tensor = self.weight_step(bits)(self.float_weight(bits))
        return quantized

    def quantized_inputs(self, inputs: Tensor, bits: int) -> Tensor:
        """Inputs at a bit width."""
        quantized: Tensor = self.input_step(bits)(inputs)
        return quantized

    def compute(self, inputs: Tensor, weight: Tensor) -> Tensor:
        """The layer's operation on quantized inputs and weights."""
        return apply_layer(self._layer[0], inputs, weight, self.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute at the precision in use, batch norm included unless it is shared."""
        weight, activation = self.precision
        outputs = self.compute(self.quantized_inputs(inputs, activation), self.quantized_weight(weight))
        norm = self.norm(self.precision)
        return outputs if norm is None else norm(outputs)


class SwitchableNetwork(nn.Module):
    """A copy of a float network that computes at any policy, with float weights and quantizer steps to be trained.

    With the fitted steps that it starts from, it computes what :class:`.TrainableNetwork` computes at the same policy, bit for bit.

    Args:
        network: Float network; it is not changed.
        layers: Its quantizable layers.
        choices: Bit widths of weights and inputs.
        calibration: Of the float network.
        pinned: Bits of weights and inputs that have no choice, by the layer's name.
        sharing: What bit widths have in common.
        start: Where steps start: ``"fitted"`` by least squares, per output channel if the calibration says so, or by ``"lsq"``'s
            rule, one per layer.

    Attributes:
        layers: The switchable layers by name, in execution order.
    """

    def __init__(
        self,
        network: nn.Module,
        layers: Sequence[Layer],
        choices: Sequence[int],
        calibration: Calibration,
        *,
        pinned: Mapping[str, Pin] = {},
        sharing: Sharing = Sharing(),
        start: Start = "fitted",
    ) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(True)
        self._followed = {} if sharing.norms == "shared" else followed_by_batch_norm(network)
        modules = quantizable_modules(self.network, [layer.name for layer in layers])
        self.layers: dict[str, SwitchableLayer] = {}
        for layer in layers:
            module, name = modules[layer.name], layer.name
            fixed = pinned.get(name, Pin(None, None))
            weight_bits, input_bits = (tuple(choices) if bits is None else (bits,) for bits in fixed)
            norm = self.network.get_submodule(self._followed[name]) if name in self._followed else None
            switchable = SwitchableLayer(module, layer, (weight_bits, input_bits), calibration, sharing, norm, start)
            self.layers[name] = switchable.to(module.weight.device)
            substitute(self.network, module, switchable)
            if norm is not None:
                substitute(self.network, norm, nn.Identity())

    def set_policy(self, policy: Policy) -> None:
        """Compute at a policy from now on."""
        for layer, precision in zip(self.layers.values(), policy.precisions, strict=True):
            layer.precision = precision

    def forward(self, images: Tensor) -> Tensor:
        """Images in [0, 1], shape ``(batch, C, H, W)``, to logits, shape ``(batch, classes)``."""
        logits: Tensor = self.network(images)
        return logits

    def steps(self) -> list[nn.Parameter]:
        """All learned steps."""
        return parameters(module.step for module in self.modules() if isinstance(module, LearnedStep))

    @torch.no_grad()
    def inherited(self, network: nn.Module, calibration: Calibration) -> tuple[nn.Module, Calibration]:
        """What every policy inherits, in the form from which quantized and trainable networks are made.

        Args:
            network: The float network that this one was made from.
            calibration: Its calibration.

        Returns:
            The float network with the weights behind the most bits, and a calibration with the learned steps, private weights
            and batch norms of all bit widths.
        """
        own, state = self.network.state_dict(), {}
        masters: dict[tuple[str, int], Tensor] = {}
        norms: dict[tuple[str, Precision], tuple[Tensor, Tensor]] = {}
        weight_steps: dict[tuple[str, int], Tensor] = {}
        input_steps: dict[tuple[str, int], float] = {}
        for name, layer in self.layers.items():
            most = Precision(layer.bits[0][-1], layer.bits[1][-1])
            state[f"{name}.weight"] = layer.float_weight(most.weight).detach().clone()
            weight_steps |= {(name, bits): layer.weight_step(bits).positive_step().clone() for bits in layer.bits[0]}
            input_steps |= {(name, bits): float(layer.input_step(bits).positive_step()) for bits in layer.bits[1]}
            if len(layer.masters) > 1:
                masters |= {(name, bits): layer.float_weight(bits).detach().clone() for bits in layer.bits[0]}
            if (norm := layer.norm(most)) is not None:
                state |= {f"{self._followed[name]}.{key}": tensor.clone() for key, tensor in norm.state_dict().items()}
                norms |= _affine_maps(name, layer)
        inherited = copy.deepcopy(network)
        inherited.load_state_dict({key: state[key] if key in state else own[key] for key in network.state_dict()})
        inherited.eval().requires_grad_(False)
        weights = {name: state[f"{name}.weight"] for name in self.layers}
        return inherited, replace(
            calibration,
            weights=weights,
            masters=masters,
            norms=norms,
            _weight_steps=weight_steps,
            _activation_steps=input_steps,
        )


def _affine_maps(name: str, layer: SwitchableLayer) -> dict[tuple[str, Precision], tuple[Tensor, Tensor]]:
    """Scale and shift of a layer's batch norm at every precision."""
    found = {}
    for weight in layer.bits[0]:
        for activation in layer.bits[1]:
            norm = layer.norm(precision := Precision(weight, activation))
            assert isinstance(norm, nn.BatchNorm2d)
            found[name, precision] = norm.weight.detach().clone(), norm.bias.detach().clone()
    return found


def _weight_quantizer(layer: Layer, bits: int, calibration: Calibration, start: Start) -> LearnedStep:
    if start == "fitted" or layer.kind == "state":
        return learned_weights(layer, bits, calibration)
    weight, grid = calibration.weights[layer.name], calibration.weight_grid(bits)
    return LearnedStep(LearnedStep.initial_step(weight, grid), grid, weight.numel())


def _input_quantizer(layer: Layer, bits: int, calibration: Calibration, start: Start) -> LearnedStep:
    if start == "fitted" or calibration.has_constant_step(layer.name):
        return learned_inputs(layer, bits, calibration)
    grid = calibration.input_grid(layer.name, bits)
    step = LearnedStep.initial_step(calibration.inputs[layer.name].values, grid)
    return LearnedStep(step, grid, input_size(layer))
