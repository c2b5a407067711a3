"""A network whose bit widths are learned: the task of a descent, with the training of its weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from suite.contract.bit_settings import BitSettings
from suite.contract.space import SearchSpace
from suite.data import ImageSplit
from suite.descent import BitTask, cells
from suite.errors import BitcertError
from suite.quantize import Calibration
from suite.quantize.graph import substitute
from suite.quantize.switchable import SwitchableNetwork
from suite.seeds import derive_seed
from suite.train.interpolated import InterpolatedLayer, Mixture
from suite.train.noise import NoisyNetwork
from suite.train.optimizer import NoisyBatches, parameter_groups

NetworkT = TypeVar("NetworkT", bound=nn.Module)


class NetworkTask(BitTask):
    """The loss of a copy of a network on noisy training images.

    Batch norms normalize by the statistics of the mini-batch and keep none. All passes of one mini-batch draw the same random
    numbers (dropout), so that differences of losses are those of the bits. Weights and quantizer steps are trained as in
    finetuning: by Adam, the rate falling to zero along a half cosine, that of steps relative to their size. With frozen weights
    steps are frozen too; only the clipping levels of :class:`.NoisyNetwork` are still learned, as the noise needs them.

    Args:
        network: Float network in evaluation mode; it is not changed.
        space: Its layers and choices.
        calibration: Quantizer steps to start from.
        split: Training images.
        settings: Steps, batch, and whether weights are trained.
        sigma: Standard deviation of the noise on images.
        learning_rate: Adam's initial rate.
        seed: Seed of order, noise and the network's own randomness.

    Raises:
        BitcertError: If there are fewer training images than a batch takes; later, if a loss is not finite.
    """

    def __init__(
        self,
        network: nn.Module,
        space: SearchSpace,
        calibration: Calibration,
        split: ImageSplit,
        settings: BitSettings,
        *,
        sigma: float,
        learning_rate: float,
        seed: int,
    ) -> None:
        if len(split) < settings.batch:
            raise BitcertError(
                f"a batch of {settings.batch} images asked for, but there are {len(split)} training images"
            )
        self._float, self._space, self._calibration = network, space, calibration
        self._settings, self._learning_rate, self._seed = settings, learning_rate, seed
        self._batches = NoisyBatches(split, settings.batch, sigma, torch.Generator().manual_seed(seed))
        self._labels = torch.tensor(split.labels)
        self._taken = 0

    def losses(self, chosen: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
        """The losses of a mini-batch at several policies; weights are trained at the first one, afterwards."""
        network, policies = self.switchable, [self._space.decode(vector) for vector in chosen]

        def prepare(number: int) -> None:
            network.set_policy(policies[number])

        found, _ = self._take(network, self._optimizer, prepare, passes=len(policies), leaf=None)
        return np.array(found)

    def slopes(self, bits: NDArray[np.float64]) -> NDArray[np.float64]:
        """The derivative of a mini-batch's loss by the bits, quantized values interpolated between choices."""
        choices = np.array(self._space.choices, dtype=float)
        lower, found = cells(choices, bits)
        shares = self._leaf(found)

        def mixture(slot: int, fixed: int) -> Mixture:
            if slot not in self._space.variable_of:
                return Mixture(fixed, fixed)
            variable = self._space.variable_of[slot]
            position = int(lower[variable])
            return Mixture(self._space.choices[position], self._space.choices[position + 1], shares[variable])

        def prepare(number: int) -> None:
            for position, layer in enumerate(self._interpolated):
                layer.weight_mixture = mixture(position, layer.layer.bits[0][0])
                layer.input_mixture = mixture(position + len(self._interpolated), layer.layer.bits[1][0])

        _, slopes = self._take(self.switchable, self._optimizer, prepare, passes=1, leaf=shares)
        return np.asarray(slopes / np.diff(choices)[lower])

    def noisy_slopes(self, bits: NDArray[np.float64]) -> NDArray[np.float64]:
        """The derivative of a mini-batch's loss by the bits, noise in place of rounding."""
        leaf, network = self._leaf(bits), self.noisy

        def bits_of(slot: int, fixed: int) -> Tensor:
            if slot in self._space.variable_of:
                return leaf[self._space.variable_of[slot]]
            return torch.tensor(float(fixed), device=leaf.device)

        def prepare(number: int) -> None:
            count = len(network.layers)
            for position, layer in enumerate(network.layers):
                weight, inputs = (bits or 0 for bits in self._space.pin(position))
                layer.bits = bits_of(position, weight), bits_of(position + count, inputs)

        _, slopes = self._take(network, self._noisy_optimizer, prepare, passes=1, leaf=leaf)
        return slopes

    @cached_property
    def switchable(self) -> SwitchableNetwork:
        """The copy that computes at choices, and between them once :meth:`slopes` has been called."""
        space = self._space
        return self._ready(
            SwitchableNetwork(self._float, space.layers, space.choices, self._calibration, pinned=space.pinned)
        )

    @cached_property
    def _interpolated(self) -> list[InterpolatedLayer]:
        layers = [InterpolatedLayer(layer) for layer in self.switchable.layers.values()]
        for layer in layers:
            substitute(self.switchable.network, layer.layer, layer)
        return layers

    @cached_property
    def noisy(self) -> NoisyNetwork:
        """The copy that computes under noise.

        Raises:
            BitcertError: If inputs that may be negative are pinned to 1 bit, for which there is no noise.
        """
        for position, layer in enumerate(self._space.layers):
            if self._space.pin(position).activation == 1 and self._calibration.inputs[layer.name].signed:
                raise BitcertError(f"nipq has no noise for inputs of 1 bit that may be negative, those of {layer.name}")
        return self._ready(NoisyNetwork(self._float, self._space.layers, self._calibration))

    def _ready(self, network: NetworkT) -> NetworkT:
        trained = self._settings.train_weights
        network.train(trained).requires_grad_(trained)
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train().track_running_stats = False  # normalizes by the batch, changes no statistics
        if isinstance(network, NoisyNetwork):
            for clip in network.steps():
                clip.requires_grad_(True)
        return network

    @cached_property
    def _optimizer(self) -> _Optimizer:
        return _Optimizer(self.switchable, self.switchable.steps(), self._learning_rate, self._settings.steps)

    @cached_property
    def _noisy_optimizer(self) -> _Optimizer:
        return _Optimizer(self.noisy, self.noisy.steps(), self._learning_rate, self._settings.steps)

    def _leaf(self, values: NDArray[np.float64]) -> Tensor:
        device = next(self._float.parameters()).device
        return torch.tensor(values, dtype=torch.float32, device=device, requires_grad=True)

    def _take(
        self,
        network: nn.Module,
        optimizer: _Optimizer,
        prepare: Callable[[int], None],
        *,
        passes: int,
        leaf: Tensor | None,
    ) -> tuple[list[float], NDArray[np.float64]]:
        """Losses of the next mini-batch, the derivative of the first by a leaf, and an optimizer step on the first."""
        inputs, labels = self._next_batch()
        seed, found = derive_seed(self._seed, "step", self._taken), []
        self._taken += 1
        with torch.random.fork_rng(devices=[inputs.device] if inputs.device.type == "cuda" else []):
            for number in range(passes):
                torch.manual_seed(seed)
                prepare(number)
                differentiated = number == 0 and (leaf is not None or optimizer.trains)
                with torch.set_grad_enabled(differentiated):
                    loss = nn.functional.cross_entropy(network(inputs), labels)
                found.append(float(loss.detach()))
                if not np.isfinite(found[-1]):
                    raise BitcertError(
                        f"learning the bits diverged at step {self._taken}: the loss is not finite; lower the learning rate of "
                        f"finetuning ({self._learning_rate}) or freeze the weights"
                    )
                if differentiated:
                    loss.backward()
        optimizer.step()
        slopes = np.zeros(0) if leaf is None or leaf.grad is None else leaf.grad.double().cpu().numpy()
        return found, slopes

    def _next_batch(self) -> tuple[Tensor, Tensor]:
        device = next(self._float.parameters()).device
        chosen, _, noisy = self._batches.draw()
        return noisy.to(device), self._labels[chosen].to(device)


class _Optimizer:
    """Adam on whatever a network leaves open, at a rate that falls to zero along a half cosine; does nothing if that is nothing."""

    def __init__(self, network: nn.Module, scales: Sequence[nn.Parameter], rate: float, steps: int) -> None:
        groups = parameter_groups(network, scales, rate)
        self.trains = bool(groups)
        self._optimizer = torch.optim.Adam(groups, fused=True) if groups else None
        self._schedule = (
            None if self._optimizer is None else torch.optim.lr_scheduler.CosineAnnealingLR(self._optimizer, steps)
        )

    def step(self) -> None:
        if self._optimizer is not None and self._schedule is not None:
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
            self._schedule.step()
