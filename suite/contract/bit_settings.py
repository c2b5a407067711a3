"""How bit widths are learned by gradient descent: what a searcher asks of the probe ``learned_bits``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from suite.contract.cost import Budget
from suite.contract.trial import GRADIENT_PASSES
from suite.options import check_counts, check_positive

Scope = Literal["network", "layer"]


@dataclass(frozen=True, slots=True)
class BitSettings(ABC):
    """What all descents share.

    Attributes:
        budget: What policies may cost; descents are pulled towards it, and may end above it.
        steps: Mini-batches.
        batch: Training images of each, at least 2: batch norms use the batch's statistics.
        train_weights: Whether the weights and quantizer steps of a copy of the network are trained at the same time.
    """

    budget: Budget
    steps: int = 400
    batch: int = 64
    train_weights: bool = True

    def __post_init__(self) -> None:
        check_counts(self, steps=1, batch=2)

    @abstractmethod
    def passes(self, numbers: int) -> int:
        """Forward passes charged per image and step.

        Args:
            numbers: How many real numbers are learned.
        """


@dataclass(frozen=True, slots=True)
class AdaQATSettings(BitSettings):
    """AdaQAT: differences of the loss between neighbouring choices.

    Attributes:
        scope: Whether one pair of numbers serves the whole network, or every variable has its own.
        price: What a bit operation per MAC costs in units of the loss, averaged over the free layers; None for a multiplier on
            each limit of the budget instead.
        rate: Step size of the numbers in bits, with one pair; with more numbers it grows in proportion, as their losses shrink.
        multiplier_rate: Step size of the multipliers, by the relative excess over a limit.
        damping: What is added to the multipliers for each unit of relative excess; without it they overshoot again and again.
        coordinates: How many numbers are moved in each step, drawn at random; the fewer move, the larger their steps.
        crossings: Crossings of the same choice after which a number is fixed at the choice above.
    """

    scope: Scope = "layer"
    price: float | None = None
    rate: float = 0.05
    multiplier_rate: float = 0.1
    damping: float = 3.0
    coordinates: int = 4
    crossings: int = 10

    def __post_init__(self) -> None:
        BitSettings.__post_init__(self)
        check_counts(self, coordinates=1, crossings=1)
        check_positive(self, "price", "rate", "multiplier_rate", "damping")

    def passes(self, numbers: int) -> int:
        """One step, with its gradient if weights are trained, and a loss for each number that moves."""
        return (GRADIENT_PASSES if self.train_weights else 1) + min(self.coordinates, numbers)


@dataclass(frozen=True, slots=True)
class FracBitsSettings(BitSettings):
    """FracBits: descent between choices, the quantized values interpolated.

    Attributes:
        start: Bits that numbers start at, where the choices reach as far.
        penalty: Weight of the relative distance from the budget; the released configuration of ResNet-18 weighs the distance
            from 34.7 billion bit operations by one per billion.
        rate: Initial rate of stochastic gradient descent with Nesterov momentum 0.9; it falls to zero along a half cosine.
    """

    start: float = 4.5
    penalty: float = 34.7
    rate: float = 0.05

    def __post_init__(self) -> None:
        BitSettings.__post_init__(self)
        check_positive(self, "start", "penalty", "rate")

    def passes(self, numbers: int) -> int:
        """A step with its gradient, and half as much for quantizing everything twice."""
        return GRADIENT_PASSES + 2


@dataclass(frozen=True, slots=True)
class NIPQSettings(BitSettings):
    """NIPQ: descent under noise distributed as the rounding errors.

    Attributes:
        scale: Weight of the smooth absolute distance from the budget.
        unit: The budget in the units of that distance, which is quadratic below one of them: 5.3 billion bit operations in the
            released configuration.
        rate: Initial rate of stochastic gradient descent with Nesterov momentum 0.9; it falls to zero along a half cosine.
    """

    scale: float = 3.0
    unit: float = 5.3
    rate: float = 0.04

    def __post_init__(self) -> None:
        BitSettings.__post_init__(self)
        check_positive(self, "scale", "unit", "rate")

    def passes(self, numbers: int) -> int:
        """A step with its gradient, and half as much for drawing the noise."""
        return GRADIENT_PASSES + 2
