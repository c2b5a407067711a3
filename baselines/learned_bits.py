"""What the methods that learn bit widths by gradient descent share: one probe, rounded within the budget."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from baselines.planned import PROPOSALS, PlannedSearcher
from baselines.prediction import Prediction
from baselines.rounding import round_within_budget
from suite.contract.bit_settings import BitSettings
from suite.contract.probes import ProbeSettings
from suite.contract.problem import Problem
from suite.contract.space import Policy
from suite.options import check_counts


@dataclass(frozen=True, slots=True)
class LearnedBitsOptions:
    """Options of every method that learns bit widths.

    Attributes:
        steps: Mini-batches of the descent.
        batch: Training images of each.
        weights: Whether the weights of a copy of the network are trained with the bits, as published; the copy is thrown away.
        refine: Whether the remaining evaluations search around the policy; the published methods do not.
        proposals: How many policies are proposed without ``refine``: the method's own and the next ones.
    """

    steps: int = 400
    batch: int = 64
    weights: bool = True
    refine: bool = False
    proposals: int = PROPOSALS

    def __post_init__(self) -> None:
        check_counts(self, steps=1, batch=2, proposals=1)


OptionsT = TypeVar("OptionsT", bound=LearnedBitsOptions)


class LearnedBits(PlannedSearcher, Generic[OptionsT]):
    """Learns real bit widths by a descent and proposes what they round to within the budget.

    See :func:`.round_within_budget`. The next policies are those nearest to the real bits, all shifted by the offset at which the
    first policy is nearest to them.
    """

    predicts_losses: ClassVar[bool] = False

    def __init__(self, problem: Problem, seed: int, options: OptionsT | None = None) -> None:
        self._options: OptionsT = options or self.Options()
        chosen = self._options
        super().__init__(problem, seed, ProbeSettings(images=1, seed=seed), chosen.refine, chosen.proposals)

    @cached_property
    def bits(self) -> NDArray[np.float64]:
        """What the descent has learned, shape ``(2, layers)``, weights first."""
        return self.probes.learned_bits(self._descent())

    @abstractmethod
    def _descent(self) -> BitSettings:
        """Which descent, with which settings."""

    @cached_property
    def _rounded(self) -> Policy:
        return round_within_budget(self.problem, self.bits)

    def _predict(self) -> Prediction:
        """Squared distances from the shifted bits."""
        space, policy = self.problem.space, self._rounded
        shifts = (np.array([policy.weights, policy.activations]) - self.bits)[space.free]
        wanted = self.bits + (shifts.mean() if shifts.size else 0.0)
        weights, inputs = (wanted[:, :, None] - np.array(space.choices)) ** 2
        return Prediction(space, weights, inputs)

    def _plan(self, prediction: Prediction) -> Policy:
        return self._rounded
