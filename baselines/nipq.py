"""NIPQ: bit widths and clipping levels, learned under noise in place of rounding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from baselines.learned_bits import LearnedBits, LearnedBitsOptions
from suite.contract.bit_settings import NIPQSettings
from suite.options import check_positive


@dataclass(frozen=True, slots=True)
class NIPQOptions(LearnedBitsOptions):
    """Options of :class:`NIPQ`, besides those of :class:`.LearnedBitsOptions`.

    Attributes:
        scale: Weight of the distance from the budget.
        rate: Initial rate of the logits that stand for bits.
    """

    scale: float = 3.0
    rate: float = 0.04

    def __post_init__(self) -> None:
        LearnedBitsOptions.__post_init__(self)
        check_positive(self, "scale", "rate")


class NIPQ(LearnedBits[NIPQOptions]):
    """NIPQ: bit widths of every layer, learned with weights and clipping levels under noise shaped as rounding errors.

    See :func:`suite.descent.descend.nipq` for the bits and :func:`suite.train.noise.add_noise` for the noise. With several
    limits the tightest counts. Spaces with 1 bit are refused: the method has no noise for it.

    References:
        Shin et al., NIPQ: Noise proxy-based integrated pseudo-quantization, CVPR 2023 (arXiv 2206.00820).
    """

    Options: ClassVar[type] = NIPQOptions

    def _descent(self) -> NIPQSettings:
        options = self._options
        return NIPQSettings(
            self.problem.budget, options.steps, options.batch, options.weights, scale=options.scale, rate=options.rate
        )
