"""AdaQAT: real bit widths, moved by differences of the loss between neighbouring integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from baselines.learned_bits import LearnedBits, LearnedBitsOptions
from suite.contract.bit_settings import AdaQATSettings, Scope
from suite.options import check_counts, check_positive


@dataclass(frozen=True, slots=True)
class AdaQATOptions(LearnedBitsOptions):
    """Options of :class:`AdaQAT`, besides those of :class:`.LearnedBitsOptions`.

    Attributes:
        scope: ``"network"`` learns one pair of bits, as published; ``"layer"`` one for each layer, which is bitcert's own.
        price: Price of a bit operation per MAC in units of the loss, as published; None for a multiplier that follows the budget.
        rate: Step size of the bits.
        coordinates: Numbers that move in each step, at a forward pass each.
    """

    scope: Scope = "network"
    price: float | None = None
    rate: float = 0.05
    coordinates: int = 4

    def __post_init__(self) -> None:
        LearnedBitsOptions.__post_init__(self)
        check_counts(self, coordinates=1)
        check_positive(self, "price", "rate")


class AdaQAT(LearnedBits[AdaQATOptions]):
    """AdaQAT: one pair of real bit widths for the network, or with scope=layer one per layer, learned by loss differences.

    Every step computes at the integers above the real numbers, trains the weights there, and moves each number by what its integer
    gains over the one below, and by the price of bits; see :func:`suite.descent.descend.adaqat`. The paper's price is a constant to
    be tuned, as ``price=0.15``. By default a multiplier follows the limits of the budget instead, which is bitcert's own.

    One pair names a policy among few, which ``uniform`` proposes as well, up to the steps that spend what is left of the budget.

    References:
        Gernigon et al., AdaQAT: Adaptive bit-width quantization-aware training, AICAS 2024 (arXiv 2404.16876).
    """

    Options: ClassVar[type] = AdaQATOptions

    def _descent(self) -> AdaQATSettings:
        options = self._options
        return AdaQATSettings(
            self.problem.budget,
            options.steps,
            options.batch,
            options.weights,
            scope=options.scope,
            price=options.price,
            rate=options.rate,
            coordinates=options.coordinates,
        )
