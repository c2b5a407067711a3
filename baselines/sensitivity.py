"""Measured sensitivity: what the network loses when one layer's weights, or its inputs, change their bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from baselines.planned import ProbedOptions, ProbedSearcher
from baselines.prediction import Prediction, best_policy, greedy_policy
from suite.contract.cost import cheapest, largest_uniform
from suite.contract.probes import Probes, Quality
from suite.contract.problem import Problem
from suite.contract.space import FLOAT_BITS, Policy
from suite.errors import BitcertError, unknown_name

AROUND = ("float", "budget")


@dataclass(frozen=True, slots=True)
class MeasuredOptions(ProbedOptions):
    """Options of the methods that measure layer by layer, besides those of :class:`ProbedOptions`.

    No paper fixes the defaults, 128 images with 4 noise samples each: they were chosen on ``digits``, where the methods are
    ranked with that caveat.

    Attributes:
        around: What one layer differs from: the ``"float"`` network, or the largest uniform policy within the ``"budget"``.
    """

    noise: int = 4
    around: str = "float"

    def __post_init__(self) -> None:
        ProbedOptions.__post_init__(self)
        if self.around not in AROUND:
            raise unknown_name("value of around", self.around, AROUND)


class MeasuredSearcher(ProbedSearcher[MeasuredOptions]):
    """What the methods that measure layer by layer share."""

    Options: ClassVar[type] = MeasuredOptions
    minimizes_loss: ClassVar[bool] = True
    """Whether the mean loss is minimized, rather than the certified radius maximized."""

    @property
    def depends_on_budget(self) -> bool:
        """Whether what one layer differs from is chosen by the budget."""
        return self._options.around == "budget"

    def _predict(self) -> Prediction:
        def lost(quality: Quality) -> float:
            return quality.loss if self.minimizes_loss else -quality.radius

        return measure_losses(self.problem, self.probes, self._options.around, lost)


class SensitivityILP(MeasuredSearcher):
    """Least sum of measured loss increases within the budget, by integer programming."""

    def _plan(self, prediction: Prediction) -> Policy:
        return best_policy(self.problem, prediction)


class SensitivityGreedy(MeasuredSearcher):
    """Measured loss increases, used greedily: bits that save the most of the budget for their loss are given up first."""

    def _plan(self, prediction: Prediction) -> Policy:
        return greedy_policy(self.problem, prediction)


@dataclass(frozen=True, slots=True)
class CertifiedOptions(MeasuredOptions):
    """Options of :class:`CertifiedILP`: those of :class:`MeasuredOptions`, with more noise.

    ``noise=8`` was chosen on ``digits``, where the method is ranked with that caveat.
    """

    noise: int = 8


class CertifiedILP(MeasuredSearcher):
    """Least sum of measured losses of certified radius within the budget, by integer programming.

    The radius is the smooth stand-in of :class:`suite.contract.probes.Quality`, which moves before predictions flip. The
    method is bitcert's own, and three constants were chosen on ``digits``, where it is ranked with that caveat: the noise
    samples of :class:`CertifiedOptions`, and of the stand-in the sharpness (2) and the largest probability (what the default
    exam can certify), by rank correlation with measured scores. Its ranks on other problems are free of it.
    """

    Options: ClassVar[type] = CertifiedOptions
    minimizes_loss: ClassVar[bool] = False

    def _plan(self, prediction: Prediction) -> Policy:
        return best_policy(self.problem, prediction)


@dataclass(frozen=True, slots=True)
class IntervalOptions(MeasuredOptions):
    """Options of :class:`IntervalILP`: those of :class:`MeasuredOptions`, without noise."""

    noise: int = 0


class IntervalILP(CertifiedILP):
    """Least sum of measured losses of interval-certified radius within the budget, by integer programming.

    For problems whose certificates are without noise; the radius is the smooth stand-in of
    :class:`suite.problems.interval_probes.IntervalProbes`.
    """

    Options: ClassVar[type] = IntervalOptions

    def _predict(self) -> Prediction:
        if self.problem.norm != "linf":
            raise BitcertError(
                f"interval-ilp plans for certificates without noise, which {self.problem.name} does not have; use certified-ilp"
            )
        return super()._predict()


def measure_losses(problem: Problem, probes: Probes, around: str, lost: Callable[[Quality], float]) -> Prediction:
    """Change the weights' bits of one free layer at a time, then the inputs' bits, and measure what is lost."""
    space = problem.space
    layers = len(space.layers)
    centre = Policy.from_bits([FLOAT_BITS] * layers, [FLOAT_BITS] * layers)
    if around == "budget":
        centre = largest_uniform(space, problem.budget) or cheapest(space)
    bits = np.array([centre.weights, centre.activations])
    losses = np.zeros((2, layers, len(space.choices)))
    least = lost(probes.measure(centre))
    for part, layer in np.ndindex(2, layers):
        if not space.free[part, layer]:
            continue
        for column, choice in enumerate(space.choices):
            changed = bits.copy()
            changed[part, layer] = choice
            losses[part, layer, column] = lost(probes.measure(Policy.from_bits(*changed))) - least
    return Prediction(space, losses[0], losses[1])
