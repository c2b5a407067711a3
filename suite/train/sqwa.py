"""Stochastic quantized weight averaging (SQWA): train in cycles, average the quantized networks, requantize, finetune."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from suite.data import ImageSplit
from suite.errors import BitcertError, unknown_name
from suite.kept import KeptState
from suite.quantize import TrainableNetwork, recalibrate_batch_norm
from suite.quantize.steps import fit_steps, quantize
from suite.quantize.trainable import FixedStep, LearnedStep
from suite.seeds import derive_seed
from suite.train.finetune import FinetuneSettings, finetune
from suite.train.loss import Loss, cross_entropy

Averaged = Literal["quantized", "masters"]
AVERAGED: tuple[Averaged, ...] = get_args(Averaged)

State = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class SQWASettings:
    """How a network is averaged and finetuned.

    Attributes:
        captures: Cycles; each ends with a capture.
        cycle_steps: Optimizer steps per cycle.
        rate: Initial learning rate of each cycle; it falls to zero along a half cosine (the paper does not give the shape).
        finish_steps: Optimizer steps of the final finetuning.
        finish_rate: Its initial learning rate, a low one.
        averaged: What is averaged: the ``"quantized"`` weights, or the float ``"masters"`` behind them.
        resolve: Whether the average is quantized with new least-squares steps rather than those of the last capture.
    """

    captures: int = 5
    cycle_steps: int = 60
    rate: float = 1e-3
    finish_steps: int = 100
    finish_rate: float = 1e-4
    averaged: Averaged = "quantized"
    resolve: bool = True

    def __post_init__(self) -> None:
        for name in ("captures", "cycle_steps", "finish_steps"):
            if getattr(self, name) < 1:
                raise BitcertError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("rate", "finish_rate"):
            if not 0 < getattr(self, name) < float("inf"):
                raise BitcertError(f"{name} must be a positive number, got {getattr(self, name)}")
        if self.averaged not in AVERAGED:
            raise unknown_name("thing to average", self.averaged, AVERAGED)

    @property
    def steps(self) -> int:
        """Optimizer steps in total."""
        return self.captures * self.cycle_steps + self.finish_steps


@dataclass(frozen=True, slots=True, eq=False)
class Training:
    """What all parts of a post-step share.

    Attributes:
        split: Training images.
        sigma: Standard deviation of the training noise.
        finetuning: Batch and quantizer; its rate is ignored.
        seed: Seed of order and noise.
        batches: Noisy training images with labels, for batch-norm recalibration and losses.
        progress: Called with the number of finished optimizer steps of the whole post-step.
        loss: What is minimized.
        state: Where trainings are kept, each as a part of its own; None to keep nothing.
    """

    split: ImageSplit
    sigma: float
    finetuning: FinetuneSettings
    seed: int
    batches: list[tuple[Tensor, Tensor]]
    progress: Callable[[int], None] | None = None
    loss: Loss = cross_entropy
    state: KeptState | None = None

    @property
    def images(self) -> list[Tensor]:
        """The inputs of the batches."""
        return [inputs for inputs, _ in self.batches]

    @property
    def rows(self) -> int:
        """Rows of all batches."""
        return sum(len(inputs) for inputs in self.images)

    def run(self, network: TrainableNetwork, steps: int, rate: float, part: str, number: int, *, done: int) -> None:
        """Finetune in place with a fresh optimizer, from ``rate`` to zero along a half cosine.

        ``part`` and ``number`` name this part of the post-step and key its seed; ``done`` optimizer steps came before it.
        """
        tell = self.progress
        finetune(
            network,
            self.split,
            steps=steps,
            sigma=self.sigma,
            settings=replace(self.finetuning, learning_rate=rate),
            seed=derive_seed(self.seed, part, number),
            progress=None if tell is None else lambda count: tell(done + count),
            loss=self.loss,
            state=self.state,
            part=f"{part}-{number}",
        )


@dataclass(frozen=True, slots=True)
class SQWARecord:
    """What happened on the way; losses are mean cross-entropies on the same noisy training images.

    Attributes:
        captures: Loss of each capture.
        averaged: Loss of the average before requantization, batch norm recalibrated.
        requantized: Loss after requantization.
        finetuned: Loss at the end.
        forward_passes: Total cost; three per image of an optimizer step.
    """

    captures: tuple[float, ...] = ()
    averaged: float = float("nan")
    requantized: float = float("nan")
    finetuned: float = float("nan")
    forward_passes: int = 0


@dataclass(slots=True)
class Average:
    """Running average of captures, in the memory of one network.

    Attributes:
        count: Captures so far.
        state: Their mean, in double precision; integers are those of the last capture.
    """

    count: int = 0
    state: State = field(default_factory=dict)

    def add(self, capture: Mapping[str, Tensor]) -> None:
        """Add a capture."""
        self.count += 1
        for name, tensor in capture.items():
            if not tensor.is_floating_point():
                self.state[name] = tensor.clone()
            elif name not in self.state:
                self.state[name] = tensor.double()
            else:
                self.state[name] += (tensor.double() - self.state[name]) / self.count


@torch.no_grad()
def capture(network: TrainableNetwork, averaged: Averaged = "quantized") -> State:
    """A copy of a network's state, with quantized weights or their float masters."""
    state = {name: tensor.detach().clone() for name, tensor in network.network.state_dict().items()}
    if averaged == "quantized":
        for name, layer in network.layers().items():
            state[f"{name}.weight"] = layer.quantized_weight().clone()
    return state


@torch.no_grad()
def resolve_steps(network: TrainableNetwork) -> None:
    """Refit the weights' steps, if they have any, by least squares on the masters.

    A step stays unless a better one is found, so weights already on its levels do not change.
    """
    for layer in network.layers().values():
        quantizer = layer.quantize_weights
        if isinstance(quantizer, FixedStep | LearnedStep):
            weight = layer.master()
            rows = weight.flatten(1) if quantizer.step.numel() > 1 else weight.flatten()[None]
            present, grid = quantizer.positive_step().reshape(-1, 1), quantizer.grid
            solved = fit_steps(rows, grid)[:, None]
            errors = [
                (quantize(rows, step, grid) - rows).square().sum(dim=1, keepdim=True) for step in (present, solved)
            ]
            quantizer.step.copy_(torch.where(errors[1] < errors[0], solved, present).reshape(quantizer.step.shape))


def sqwa(
    network: TrainableNetwork,
    training: Training,
    settings: SQWASettings,
    *,
    captured: Callable[[int, State], None] | None = None,
) -> SQWARecord:
    """Finetune a quantized network by stochastic quantized weight averaging, in place.

    Each training cycle, with a learning rate that falls to zero, ends with a capture of the quantized network. The average
    of the captures is requantized with new steps, its batch norm is recalibrated, and it is finetuned at a low rate. Each
    cycle has a fresh optimizer and its own seed. Interrupted and called again, finished cycles are not trained again: their
    networks come from ``training.state``.

    Args:
        network: The quantized network.
        training: Images, noise, batch and seed.
        settings: Cycles, rates, what is averaged.
        captured: Called with the number and the state of each capture.

    Raises:
        BitcertError: If training diverges, or ``training.state`` belongs to something else.

    References:
        Shin, Boo and Sung, SQWA: Stochastic quantized weight averaging for improving the generalization capability of
        low-precision deep neural networks, arXiv 2002.00343, 2020.
    """
    losses = average_cycles(network, training, settings, captured=captured)
    with _unquantized_weights(network):
        recalibrate_batch_norm(network, training.images)
        averaged = mean_loss(network, training.batches)
    if settings.resolve:
        resolve_steps(network)
    recalibrate_batch_norm(network, training.images)
    requantized = mean_loss(network, training.batches)
    done = settings.captures * settings.cycle_steps
    training.run(network, settings.finish_steps, settings.finish_rate, "finish", 0, done=done)
    trained = training.finetuning.forward_passes(settings.steps)
    return SQWARecord(
        captures=tuple(losses),
        averaged=averaged,
        requantized=requantized,
        finetuned=mean_loss(network, training.batches),
        forward_passes=trained + training.rows * (settings.captures + 5),
    )


def average_cycles(
    network: TrainableNetwork,
    training: Training,
    settings: SQWASettings,
    *,
    captured: Callable[[int, State], None] | None = None,
) -> list[float]:
    """Train in cycles and load the average of the captures into the network; arguments as for :func:`sqwa`.

    Returns:
        The loss of each capture. Batch norms hold the mean of the captures' statistics, not the average's own.
    """
    average = Average()
    losses: list[float] = []
    for cycle in range(settings.captures):
        training.run(network, settings.cycle_steps, settings.rate, "cycle", cycle, done=cycle * settings.cycle_steps)
        taken = capture(network, settings.averaged)
        average.add(taken)
        losses.append(mean_loss(network, training.batches))
        if captured is not None:
            captured(cycle, taken)
    load_state(network, average.state)
    return losses


@torch.no_grad()
def mean_loss(network: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> float:
    """Mean cross-entropy over all rows."""
    network.eval()
    total = sum(
        float(nn.functional.cross_entropy(network(inputs), labels, reduction="sum")) for inputs, labels in batches
    )
    return total / sum(len(labels) for _, labels in batches)


@contextmanager
def _unquantized_weights(network: TrainableNetwork) -> Iterator[None]:
    """Compute with the float masters within the block."""
    layers = network.layers().values()
    quantizers = [layer.quantize_weights for layer in layers]
    try:
        for layer in layers:
            layer.quantize_weights = nn.Identity()
        yield
    finally:
        for layer, quantizer in zip(layers, quantizers, strict=True):
            layer.quantize_weights = quantizer


def load_state(network: TrainableNetwork, state: Mapping[str, Tensor]) -> None:
    """Load a state such as :func:`capture` returns, in any precision."""
    own = network.network.state_dict()
    network.network.load_state_dict({name: tensor.to(own[name].dtype) for name, tensor in state.items()})
