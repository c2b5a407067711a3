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
from suite.quantize.calibration import SeenInputs, quantizable_modules
from suite.quantize.graph import substitute
from suite.quantize.layer import apply_layer
from suite.quantize.steps import activation_grid, weight_grid
from suite.quantize.trainable import LearnedStep, input_size
from suite.train.finetune import PASSES_PER_IMAGE

_LEARNING_RATE = 0.01  # of Adam, relative to the size of each step
_BATCH = 64


class _SwitchableLayer(nn.Module):
    """A Conv2d or Linear with a step for its weights and one for its inputs at every bit width."""

    def __init__(self, module: nn.Conv2d | nn.Linear, layer: Layer, choices: Sequence[int], seen: SeenInputs) -> None:
        super().__init__()
        self._layer = [module]  # in a list: its weights are not learned
        weight, inputs = module.weight.detach(), input_size(layer)
        grids = [(weight_grid(bits), activation_grid(bits, seen.signed)) for bits in choices]
        self.weights = nn.ModuleList(
            LearnedStep(LearnedStep.initial_step(weight, grid), grid, weight.numel()) for grid, _ in grids
        )
        self.inputs = nn.ModuleList(
            LearnedStep(LearnedStep.initial_step(seen.values, grid), grid, inputs) for _, grid in grids
        )
        self.choice = 0

    def forward(self, inputs: Tensor) -> Tensor:
        layer = self._layer[0]
        weight = self.weights[self.choice](layer.weight.detach())
        return apply_layer(layer, self.inputs[self.choice](inputs), weight, layer.bias)


def passes_per_image(choices: int) -> int:
    """Forward passes per image and step: every bit width and one mixture, forward and backward."""
    return PASSES_PER_IMAGE * (choices + 1)


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
) -> NDArray[np.float64]:
    """Learn the steps of all layers and bit widths on noisy images, the network's weights frozen.

    Each training step sums the gradients of all uniform policies and a random one, as in LIMPQ's released code; unlike
    there, batch norms stay as they are rather than being trained for each bit width. Each layer has one step per bit
    width, initialized as in LSQ.

    Args:
        network: Float network in evaluation mode; it is not changed.
        layers: Its quantizable layers.
        choices: Bit widths.
        calibration: Inputs that the layers saw.
        split: Training images.
        epochs: Passes over them.
        sigma: Standard deviation of the noise.
        seed: Seed of order, noise and random policies.

    Returns:
        Steps, shape ``(2, layers, choices)``: weights, then inputs.

    Raises:
        BitcertError: If the loss stops being finite.
    """
    device = next(network.parameters()).device
    trained = copy.deepcopy(network).requires_grad_(False).eval()
    switchable: list[_SwitchableLayer] = []
    modules = quantizable_modules(trained, [layer.name for layer in layers])
    for layer in layers:
        module = modules[layer.name]
        switchable.append(_SwitchableLayer(module, layer, choices, calibration.inputs[layer.name]).to(device))
        substitute(trained, module, switchable[-1])
    steps = [parameter for layer in switchable for parameter in layer.parameters()]
    optimizer = torch.optim.Adam([{"params": [step], "lr": _LEARNING_RATE * float(step.detach())} for step in steps])
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.arange(len(choices))[:, None].expand(-1, len(switchable))
    labels = torch.tensor(split.labels)
    for _ in range(epochs):
        for chosen in torch.randperm(len(split), generator=generator).split(_BATCH):
            images = split.subset(chosen.numpy()).images()
            inputs = (images + sigma * torch.randn(images.shape, generator=generator)).to(device)
            mixture = torch.randint(len(choices), (1, len(switchable)), generator=generator)
            optimizer.zero_grad(set_to_none=True)
            for assigned in torch.cat([uniform, mixture]).tolist():
                for switched, choice in zip(switchable, assigned, strict=True):
                    switched.choice = choice
                loss = nn.functional.cross_entropy(trained(inputs), labels[chosen].to(device))
                if not torch.isfinite(loss):
                    raise BitcertError("learning the steps diverged: the loss is not finite")
                loss.backward()
            optimizer.step()
    learned = [[switched.weights for switched in switchable], [switched.inputs for switched in switchable]]
    return np.array([[[float(step.positive_step().detach()) for step in layer] for layer in part] for part in learned])  # type: ignore[operator]
