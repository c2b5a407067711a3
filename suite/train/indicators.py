"""Quantizer steps learned jointly over all bit widths: the importance indicators of LIMPQ."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from suite.contract.space import Layer
from suite.data import ImageSplit
from suite.errors import BitcertError
from suite.quantize import Calibration
from suite.quantize.calibration import quantizable_modules
from suite.quantize.folding import followed_by_batch_norm
from suite.quantize.graph import substitute
from suite.quantize.layer import apply_layer
from suite.quantize.trainable import LearnedStep, input_size
from suite.train.finetune import PASSES_PER_IMAGE, FinetuneSettings

_LEARNING_RATE = 0.01  # of Adam, relative to the size of each step
_BATCH = 64


class SwitchableLayer(nn.Module):
    """A Conv2d or Linear that computes at any of several bit widths.

    Each bit width has a step for the weights, one for the inputs and, where the layer's batch norm is given, a copy of it.

    Attributes:
        choice: Index of the bit width in use.
        norms: The batch norms by bit width; empty without one.
    """

    def __init__(
        self,
        module: nn.Conv2d | nn.Linear,
        layer: Layer,
        choices: Sequence[int],
        calibration: Calibration,
        norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self._layer = [module]  # in a list: its parameters would have two names
        self.weight, self.bias = module.weight, module.bias
        weight, inputs = module.weight.detach(), input_size(layer)
        seen = calibration.inputs[layer.name]
        grids = [(calibration.weight_grid(bits), calibration.input_grid(layer.name, bits)) for bits in choices]
        self.weights = nn.ModuleList(
            LearnedStep(LearnedStep.initial_step(weight, grid), grid, weight.numel()) for grid, _ in grids
        )
        self.inputs = nn.ModuleList(
            LearnedStep(LearnedStep.initial_step(seen.values, grid), grid, inputs) for _, grid in grids
        )
        self.norms = nn.ModuleList([] if norm is None else [copy.deepcopy(norm) for _ in choices])
        self.choice = 0

    def forward(self, inputs: Tensor) -> Tensor:
        """Apply the layer, and its batch norm if it has any, at the bit width in use."""
        weight = self.weights[self.choice](self.weight)
        outputs = apply_layer(self._layer[0], self.inputs[self.choice](inputs), weight, self.bias)
        return self.norms[self.choice](outputs) if len(self.norms) else outputs


class SwitchableNetwork(nn.Module):
    """A copy of a network whose layers switch their bit widths.

    Args:
        network: Float network; it is not changed.
        layers: Its quantizable layers.
        choices: Bit widths.
        calibration: Inputs that the layers saw.
        freeze_weights: Whether the steps alone are trained and batch norms stay as they are, in evaluation mode. Else
            everything is trained, and each bit width of a layer has a batch norm of its own, where one follows the layer
            alone; other batch norms see the activations of all bit widths.
    """

    def __init__(
        self,
        network: nn.Module,
        layers: Sequence[Layer],
        choices: Sequence[int],
        calibration: Calibration,
        *,
        freeze_weights: bool,
    ) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(not freeze_weights).train(not freeze_weights)
        norms = {} if freeze_weights else followed_by_batch_norm(network)
        modules = quantizable_modules(self.network, [layer.name for layer in layers])
        self.layers: list[SwitchableLayer] = []
        for layer in layers:
            module = modules[layer.name]
            norm = self.network.get_submodule(norms[layer.name]) if layer.name in norms else None
            switchable = SwitchableLayer(module, layer, choices, calibration, norm)
            self.layers.append(switchable.to(module.weight.device))
            substitute(self.network, module, self.layers[-1])
            if norm is not None:
                substitute(self.network, norm, nn.Identity())

    def forward(self, images: Tensor, assigned: Sequence[int]) -> Tensor:
        """Logits with one bit width per layer, each an index into the choices."""
        for layer, choice in zip(self.layers, assigned, strict=True):
            layer.choice = choice
        logits: Tensor = self.network(images)
        return logits

    def steps(self) -> list[list[list[LearnedStep]]]:
        """The steps by part, weights first, then by layer and choice."""
        return [[list(layer.weights) for layer in self.layers], [list(layer.inputs) for layer in self.layers]]  # type: ignore[arg-type]


def passes_per_image(choices: int) -> int:
    """Forward passes per image and step: every bit width and one mixture, forward and backward."""
    return PASSES_PER_IMAGE * (choices + 1)


def train_steps(
    network: SwitchableNetwork, split: ImageSplit, *, choices: int, epochs: int, sigma: float, seed: int
) -> None:
    """Train what a switchable network leaves open, in place, on noisy images.

    Each training step sums the gradients of all uniform policies and a random one, as in LIMPQ's released code. Adam moves
    a step by about 0.01 of its size, weights by the rate at which finetuning starts; both rates stay as they are.

    Args:
        network: Trained in place.
        split: Training images.
        choices: Bit widths of the network.
        epochs: Passes over the images.
        sigma: Standard deviation of the noise.
        seed: Seed of order, noise, random policies and the network's own randomness (dropout).

    Raises:
        BitcertError: If the loss stops being finite, or batch norms have a single image to learn from.
    """
    device = next(network.parameters()).device
    scales = [step.step for part in network.steps() for layer in part for step in layer]
    open_parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    others = [parameter for parameter in open_parameters if all(parameter is not scale for scale in scales)]
    groups = [{"params": [scale], "lr": _LEARNING_RATE * float(scale.detach())} for scale in scales]
    if others:
        groups.append({"params": others, "lr": FinetuneSettings().learning_rate})
        if len(split) < 2:
            raise BitcertError("training the weights needs at least 2 images; give more, or freeze_weights=true")
    optimizer = torch.optim.Adam(groups)
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.arange(choices)[:, None].expand(-1, len(network.layers))
    labels = torch.tensor(split.labels)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for _ in range(epochs):
            for chosen in torch.randperm(len(split), generator=generator).split(_BATCH):
                if len(chosen) == 1 and others:
                    continue  # no statistics of a single image
                images = split.subset(chosen.numpy()).images()
                inputs = (images + sigma * torch.randn(images.shape, generator=generator)).to(device)
                mixture = torch.randint(choices, (1, len(network.layers)), generator=generator)
                optimizer.zero_grad(set_to_none=True)
                for assigned in torch.cat([uniform, mixture]).tolist():
                    loss = nn.functional.cross_entropy(network(inputs, assigned), labels[chosen].to(device))
                    if not torch.isfinite(loss):
                        raise BitcertError("learning the steps diverged: the loss is not finite")
                    loss.backward()
                optimizer.step()


def learn_steps(
    network: nn.Module,
    layers: Sequence[Layer],
    choices: Sequence[int],
    calibration: Calibration,
    split: ImageSplit,
    *,
    epochs: int,
    sigma: float,
    seed: int,
    freeze_weights: bool = False,
) -> NDArray[np.float64]:
    """Learn the steps of all layers and bit widths by :func:`train_steps`, each initialized as in LSQ.

    Args:
        network: Float network in evaluation mode; it is not changed.
        layers: Its quantizable layers.
        choices: Bit widths.
        calibration: Inputs that the layers saw.
        split: Training images.
        epochs: Passes over them.
        sigma: Standard deviation of the noise.
        seed: Seed of order, noise and random policies.
        freeze_weights: Whether the network stays as it is, rather than being trained with the steps.

    Returns:
        Steps, shape ``(2, layers, choices)``: weights, then inputs.

    Raises:
        BitcertError: As :func:`train_steps`.
    """
    switchable = SwitchableNetwork(network, layers, choices, calibration, freeze_weights=freeze_weights)
    train_steps(switchable, split, choices=len(choices), epochs=epochs, sigma=sigma, seed=seed)
    learned = switchable.steps()
    return np.array([[[float(step.positive_step().detach()) for step in layer] for layer in part] for part in learned])
