"""Measured sensitivity: what the network loses when one layer's weights, or its inputs, change their bits."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import numpy as np

from baselines.planned import PlannedSearcher
from baselines.prediction import Prediction, best_policy, greedy_policy
from suite.contract import cost
from suite.contract.probes import Probes, ProbeSettings, Quality
from suite.contract.problem import Problem
from suite.contract.space import FLOAT_BITS, Policy
from suite.errors import unknown_name

AROUND = ("float", "budget")


class MeasuredSearcher(PlannedSearcher):
    """What the methods that measure layer by layer share.

    Args:
        problem: What is searched.
        seed: Of the images and their noise.
        images: Training images.
        noise: Noise samples of each image; 0 for none.
        around: What one layer differs from: the ``"float"`` network, or the largest uniform policy within the ``"budget"``.
        refine: Whether the rest of the spend is used to search around the policy.

    Raises:
        BitcertError: If an option is out of range.
    """

    def __init__(
        self,
        problem: Problem,
        seed: int,
        *,
        images: int = 128,
        noise: int = 4,
        around: str = "float",
        refine: bool = False,
    ) -> None:
        super().__init__(problem, seed, ProbeSettings(images, noise, seed), refine=refine)
        if around not in AROUND:
            raise unknown_name("value of around", around, AROUND)
        self._around = around

    def _predict(self) -> Prediction:
        return measure_losses(self.problem, self.probes, self._around, self._lost)

    @abstractmethod
    def _lost(self, quality: Quality) -> float:
        """What is to be minimized."""


class SensitivityILP(MeasuredSearcher):
    """Least sum of measured loss increases within the budget, by integer programming.

    Its options are those of :class:`MeasuredSearcher`.
    """

    def _plan(self, prediction: Prediction) -> Policy:
        return best_policy(self.problem, prediction)

    def _lost(self, quality: Quality) -> float:
        return quality.loss


class SensitivityGreedy(MeasuredSearcher):
    """Measured loss increases, used greedily: bits that save the most BOPs for their loss are given up first.

    Its options are those of :class:`MeasuredSearcher`.
    """

    def _plan(self, prediction: Prediction) -> Policy:
        return greedy_policy(self.problem, prediction)

    def _lost(self, quality: Quality) -> float:
        return quality.loss


class CertifiedILP(MeasuredSearcher):
    """Least sum of measured losses of certified radius within the budget, by integer programming.

    The radius is the smooth stand-in of :class:`suite.contract.probes.Quality`, which moves before predictions flip.

    Args:
        problem: What is searched.
        seed: Of the images and their noise.
        images: Training images.
        noise: Noise samples of each image.
        around: What one layer differs from: the ``"float"`` network, or the largest uniform policy within the ``"budget"``.
        refine: Whether the rest of the spend is used to search around the policy.
    """

    def __init__(
        self,
        problem: Problem,
        seed: int,
        *,
        images: int = 128,
        noise: int = 8,
        around: str = "float",
        refine: bool = False,
    ) -> None:
        super().__init__(problem, seed, images=images, noise=noise, around=around, refine=refine)

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
        centre = problem.largest_uniform() or cost.cheapest(space)
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
