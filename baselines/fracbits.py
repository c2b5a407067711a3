"""FracBits: fractional bit widths, learned through values interpolated between two quantizers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from baselines.learned_bits import LearnedBits, LearnedBitsOptions
from suite.contract.bit_settings import FracBitsSettings
from suite.options import check_positive


@dataclass(frozen=True, slots=True)
class FracBitsOptions(LearnedBitsOptions):
    """Options of :class:`FracBits`, besides those of :class:`.LearnedBitsOptions`.

    Attributes:
        start: Bits that all layers start at.
        penalty: Weight of the relative distance from the budget.
        rate: Initial rate of the bits.
    """

    start: float = 4.5
    penalty: float = 34.7
    rate: float = 0.05

    def __post_init__(self) -> None:
        LearnedBitsOptions.__post_init__(self)
        check_positive(self, "start", "penalty", "rate")


class FracBits(LearnedBits[FracBitsOptions]):
    """FracBits: fractional bit widths of every layer, learned with the weights by stochastic gradient descent.

    Weights and inputs are interpolated between their two neighbouring bit widths, and the loss has the relative distance from the
    budget added; see :func:`suite.descent.descend.fracbits`. With several limits the tightest counts.

    References:
        Yang and Jin, FracBits: Mixed precision quantization via fractional bit-widths, AAAI 2021 (arXiv 2007.02017).
    """

    Options: ClassVar[type] = FracBitsOptions

    def _descent(self) -> FracBitsSettings:
        options = self._options
        return FracBitsSettings(
            self.problem.budget,
            options.steps,
            options.batch,
            options.weights,
            start=options.start,
            penalty=options.penalty,
            rate=options.rate,
        )
