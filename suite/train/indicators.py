"""Quantizer steps learned jointly over all bit widths: the importance indicators of LIMPQ."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from suite.contract.space import Layer, Policy
from suite.data import ImageSplit
from suite.errors import BitcertError
from suite.quantize import Calibration
from suite.quantize.switchable import Sharing, SwitchableNetwork
from suite.train.finetune import PASSES_PER_IMAGE, FinetuneSettings
from suite.train.optimizer import parameter_groups

_LEARNING_RATE = 0.01  # of Adam, relative to the size of each step
_BATCH = 64


def passes_per_image(choices: int) -> int:
    """Forward passes per image and step: every bit width and one mixture, forward and backward."""
    return PASSES_PER_IMAGE * (choices + 1)


def train_steps(
    network: SwitchableNetwork,
    split: ImageSplit,
    *,
    choices: Sequence[int],
    epochs: int,
    sigma: float,
    seed: int,
    freeze_weights: bool = False,
) -> None:
    """Train a switchable network in place on noisy images.

    Each training step sums the gradients of all uniform policies and a random one, as in LIMPQ's released code. Adam moves
    a step by about 0.01 of its size, weights by the rate at which finetuning starts; both rates stay as they are.

    Args:
        network: Trained in place.
        split: Training images.
        choices: Bit widths of the network.
        epochs: Passes over the images.
        sigma: Standard deviation of the noise.
        seed: Seed of order, noise, random policies and the network's own randomness (dropout).
        freeze_weights: Whether the steps alone are trained and batch norms stay as they are, in evaluation mode.

    Raises:
        BitcertError: If the loss stops being finite, or batch norms have a single image to learn from.
    """
    device, scales = next(network.parameters()).device, network.steps()
    network.train(not freeze_weights)
    if freeze_weights:
        network.requires_grad_(False)
        for scale in scales:
            scale.requires_grad_(True)
    elif len(split) < 2:
        raise BitcertError("training the weights needs at least 2 images; give more, or freeze_weights=true")
    optimizer = torch.optim.Adam(parameter_groups(network, scales, FinetuneSettings().learning_rate, _LEARNING_RATE))
    generator = torch.Generator().manual_seed(seed)
    layers = len(network.layers)
    uniform = torch.arange(len(choices))[:, None].expand(-1, layers)
    labels = torch.tensor(split.labels)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for _ in range(epochs):
            for chosen in torch.randperm(len(split), generator=generator).split(_BATCH):
                if len(chosen) == 1 and not freeze_weights:
                    continue  # no statistics of a single image
                images = split.subset(chosen.numpy()).images()
                inputs = (images + sigma * torch.randn(images.shape, generator=generator)).to(device)
                mixture = torch.randint(len(choices), (1, layers), generator=generator)
                optimizer.zero_grad(set_to_none=True)
                for assigned in torch.cat([uniform, mixture]).tolist():
                    bits = [choices[choice] for choice in assigned]
                    network.set_policy(Policy.from_bits(bits, bits))
                    loss = nn.functional.cross_entropy(network(inputs), labels[chosen].to(device))
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
    sharing = Sharing(norms="shared" if freeze_weights else "weights")
    switchable = SwitchableNetwork(network, layers, choices, calibration, sharing=sharing, start="lsq")
    train_steps(
        switchable, split, choices=choices, epochs=epochs, sigma=sigma, seed=seed, freeze_weights=freeze_weights
    )
    layers_steps = [(layer.weight_step, layer.input_step) for layer in switchable.layers.values()]
    return np.array(
        [
            [[float(steps[part](bits).positive_step().detach().mean()) for bits in choices] for steps in layers_steps]
            for part in range(2)
        ]
    )
