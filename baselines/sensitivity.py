"""Measured sensitivity: what the network loses when one layer's weights, or its inputs, change their bits."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from baselines.planned import PlannedSearcher
from baselines.prediction import Prediction, best_policy, greedy_policy
from suite.contract.cost import cheapest
from suite.contract.probes import Probes, ProbeSettings, Quality
from suite.contract.problem import Problem
from suite.contract.space import FLOAT_BITS, Policy
from suite.errors import unknown_name
from suite.plugins import check_counts

AROUND = ("float", "budget")


@dataclass(frozen=True, slots=True)
class MeasuredOptions:
    """Options of the methods that measure layer by layer.

    Attributes:
        images: Training images.
        noise: Noise samples of each image; 0 for none.
        around: What one layer differs from: the ``"float"`` network, or the largest uniform policy within the ``"budget"``.
        refine: Whether the rest of the spend is used to search around the policy.
    """

    images: int = 128
    noise: int = 4
    around: str = "float"
    refine: bool = False

    def __post_init__(self) -> None:
        check_counts(self, images=1, noise=0)
        if self.around not in AROUND:
            raise unknown_name("value of around", self.around, AROUND)


class MeasuredSearcher(PlannedSearcher):
    """What the methods that measure layer by layer share.

    Args:
        problem: What is searched.
        seed: Of the images and their noise.
        options: See :class:`MeasuredOptions`.
    """

    Options: ClassVar[type] = MeasuredOptions

    def __init__(self, problem: Problem, seed: int, options: MeasuredOptions | None = None) -> None:
        options = options or self.Options()
        super().__init__(problem, seed, ProbeSettings(options.images, options.noise, seed), options.refine)
        self._around = options.around

    def _predict(self) -> Prediction:
        return measure_losses(self.problem, self.probes, self._around, self._lost)

    @abstractmethod
    def _lost(self, quality: Quality) -> float:
        """What is to be minimized."""


class SensitivityILP(MeasuredSearcher):
    """Least sum of measured loss increases within the budget, by integer programming.

    Its options are those of :class:`MeasuredOptions`.
    """

    def _plan(self, prediction: Prediction) -> Policy:
        return best_policy(self.problem, prediction)

    def _lost(self, quality: Quality) -> float:
        return quality.loss


class SensitivityGreedy(MeasuredSearcher):
    """Measured loss increases, used greedily: bits that save the most of the budget for their loss are given up first.

    Its options are those of :class:`MeasuredOptions`.
    """

    def _plan(self, prediction: Prediction) -> Policy:
        return greedy_policy(self.problem, prediction)

    def _lost(self, quality: Quality) -> float:
        return quality.loss


@dataclass(frozen=True, slots=True)
class CertifiedOptions(MeasuredOptions):
    """Options of :class:`CertifiedILP`: those of :class:`MeasuredOptions`, with more noise."""

    noise: int = 8


class CertifiedILP(MeasuredSearcher):
    """Least sum of measured losses of certified radius within the budget, by integer programming.

    The radius is the smooth stand-in of :class:`suite.contract.probes.Quality`, which moves before predictions flip.
    """

    Options: ClassVar[type] = CertifiedOptions

    def _plan(self, prediction: Prediction) -> Policy:
        return best_policy(self.problem, prediction)

    def _lost(self, quality: Quality) -> float:
        return -quality.radius


def measure_losses(problem: Problem, probes: Probes, around: str, lost: Callable[[Quality], float]) -> Prediction:
    """Change the weights' bits of one free layer at a time, then the inputs' bits, and measure what is lost."""
    space = problem.space
    layers = len(space.layers)
    centre = Policy.from_bits([FLOAT_BITS] * layers, [FLOAT_BITS] * layers)
    if around == "budget":
        centre = problem.largest_uniform() or cheapest(space)
    bits = np.array([centre.weights, centre.activations])
    losses = np.zeros((2, layers, len(space.choices)))
    least = lost(probes.measure(centre))
    for part, layer in np.ndindex(2, layers):
        if space.layers[layer].name in space.pinned:
            continue
        for column, choice in enumerate(space.choices):
            changed = bits.copy()
            changed[part, layer] = choice
            losses[part, layer, column] = lost(probes.measure(Policy.from_bits(*changed))) - least
    return Prediction(space, losses[0], losses[1])
