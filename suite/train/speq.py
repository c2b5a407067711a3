"""Stochastic precision ensemble (SPEQ): a network taught by itself with its inputs at randomly raised precision."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from suite.errors import BitcertError, unknown_name
from suite.quantize.steps import Grid, activation_grid
from suite.quantize.trainable import LearnedStep, TrainableLayer, TrainableNetwork
from suite.train.loss import TrainingBatch, as_teacher

TeacherNoise = Literal["same", "fresh"]
TEACHER_NOISE: tuple[TeacherNoise, ...] = get_args(TeacherNoise)


@dataclass(frozen=True, slots=True)
class SPEQLoss:
    """Cross-entropy, and the cosine distance to the soft labels of a teacher that shares all parameters.

    In every step each raisable layer's inputs keep the policy's precision with probability ``u``, else they get ``high`` bits
    within the same clip. The teacher is the network with these inputs, in evaluation mode and without a gradient. Where the
    draw raises nothing and the noise is the student's, the teacher is the student, and there is no such term.

    The draws are a function of the training's seed and the step.

    Attributes:
        raisable: Layers whose inputs may be raised, by name; others keep the policy's precision.
        u: Probability of the policy's precision.
        temperature: Divides the logits of both; the term is multiplied by its square.
        weight: Of the term, the paper's mu.
        high: Bits of raised inputs.
        noise: Whether the teacher sees the student's noise (as published), or a fresh sample of it (ours).

    Raises:
        BitcertError: If an option is out of range.

    References:
        Boo, Shin, Choi and Sung, Stochastic precision ensemble: self-knowledge distillation for quantized deep neural networks,
        AAAI 2021, arXiv 2009.14502.
    """

    raisable: tuple[str, ...]
    u: float = 0.5
    temperature: float = 2.0
    weight: float = 1.0
    high: int = 8
    noise: TeacherNoise = "same"

    def __post_init__(self) -> None:
        if not 0 <= self.u <= 1:
            raise BitcertError(f"u is a probability between 0 and 1, got {self.u}")
        if not 0 < self.temperature < float("inf") or not 0 <= self.weight < float("inf"):
            raise BitcertError(
                f"speq needs temperature > 0 and weight >= 0, both finite, got {self.temperature} and {self.weight}"
            )
        if not 2 <= self.high <= 16:
            raise BitcertError(f"the teacher's high precision is 2 to 16 bits, got {self.high}")
        if self.noise not in TEACHER_NOISE:
            raise unknown_name("noise of the teacher", self.noise, TEACHER_NOISE)

    def __call__(self, network: TrainableNetwork, batch: TrainingBatch) -> Tensor:
        """The loss of one step."""
        logits = network(batch.inputs)
        loss = nn.functional.cross_entropy(logits, batch.labels)
        raised = self.draw(batch)
        if not raised and self.noise == "same":
            return loss
        inputs = batch.inputs if self.noise == "same" else batch.noisy("speq-noise", 1)
        with as_teacher(network), raised_inputs(network, raised, self.high):
            taught = network(inputs)
        return loss + self.weight * cosine_distance(logits, taught, self.temperature)

    def draw(self, batch: TrainingBatch) -> tuple[str, ...]:
        """The layers whose inputs are raised in this step."""
        numbers = torch.rand(len(self.raisable), generator=batch.generator("speq"))
        return tuple(name for name, number in zip(self.raisable, numbers.tolist(), strict=True) if number >= self.u)


def cosine_distance(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``T^2 (1 - cos(softmax(s / T), softmax(t / T)))``, mean over rows; logits of shape ``(rows, classes)``."""
    first, second = ((logits / temperature).softmax(dim=1) for logits in (student, teacher))
    return temperature**2 * (1 - nn.functional.cosine_similarity(first, second, dim=1)).mean()


@contextmanager
def raised_inputs(network: TrainableNetwork, names: Iterable[str], bits: int) -> Iterator[None]:
    """Within the block the named layers' inputs have ``bits`` bits, with the same clip; without effect on their gradients."""
    layers = network.layers()
    quantizers = {name: layers[name].quantize_inputs for name in names}
    try:
        for name in quantizers:
            layers[name].quantize_inputs = raise_precision(layers[name], bits)
        yield
    finally:
        for name, quantizer in quantizers.items():
            layers[name].quantize_inputs = quantizer


@torch.no_grad()
def raise_precision(layer: TrainableLayer, bits: int) -> LearnedStep:
    """A quantizer of a layer's inputs with more levels in the same range.

    Its step is the layer's, times ``high(policy's bits) / high(bits)``. Unsigned inputs thus have the levels of ``bits`` bits.
    Of signed ones the positive half does; the negative half, longer than it at few bits, keeps its end and has the same step.

    Raises:
        BitcertError: If the layer's inputs are not quantized.
    """
    present = layer.quantize_inputs
    if isinstance(present, nn.Identity):
        raise BitcertError("inputs that are not quantized have no precision to raise")
    grid = present.grid
    high = activation_grid(bits, grid.low < 0).high
    finer = Grid(round(grid.low * high / grid.high), high)
    return LearnedStep(present.positive_step() * (grid.high / high), finer, values_per_step=1)
