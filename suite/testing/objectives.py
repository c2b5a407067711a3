"""What every objective has to pass."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from suite.contract.objective import Objective, check_radii
from suite.contract.trial import Metrics
from suite.errors import BitcertError

IMAGES = 200


class ObjectiveConformance(ABC):
    """A finite score of the metrics that says what it is, and agrees with its split into images if it has one."""

    @abstractmethod
    def make(self) -> Objective:
        """Build the objective under test."""

    def measured(self, seed: int) -> tuple[Metrics, NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Metrics of made-up certificates, with their labels, predictions and radii."""
        rng = np.random.default_rng(seed)
        labels, prediction = rng.integers(0, 3, IMAGES), rng.integers(-1, 3, IMAGES)
        radius = np.where(prediction < 0, 0.0, rng.uniform(0, 1.5, IMAGES))
        right = prediction == labels
        radii = sorted({0.0, 0.25, *self.make().radii})
        metrics = Metrics(
            clean_accuracy=float(rng.uniform()),
            acr=float(np.where(right, radius, 0.0).mean()),
            certified_accuracy={value: float((right & (radius >= value)).mean()) for value in radii},
            bops=1000,
            forward_passes=1,
            seconds=0.0,
            alpha=0.001,
            method="made up",
        )
        return metrics, labels, prediction, radius

    def test_it_is_a_value_with_a_label(self) -> None:
        objective = self.make()
        assert objective == self.make()
        assert hash(objective) == hash(self.make())
        assert objective.label
        assert not objective.radii or check_radii(objective.radii) == objective.radii

    def test_it_takes_a_second_objective(self) -> None:
        named = replace(self.make(), text="mine+bops", minimized=("bops",))
        assert (named.text, named.pareto, named.radii) == ("mine+bops", True, self.make().radii)
        assert named.score(self.measured(0)[0]) == self.make().score(self.measured(0)[0])

    @pytest.mark.parametrize("seed", range(5))
    def test_scores_are_finite_numbers(self, seed: int) -> None:
        score = self.make().score(self.measured(seed)[0])
        assert math.isfinite(score)
        assert score == self.make().score(self.measured(seed)[0])

    @pytest.mark.parametrize("seed", range(5))
    def test_the_split_into_images_agrees_with_the_score(self, seed: int) -> None:
        objective, (metrics, labels, prediction, radius) = self.make(), self.measured(seed)
        if not objective.per_image:
            with pytest.raises(BitcertError, match="average only"):
                objective.image_scores(labels, prediction, radius)
            return
        scores = objective.image_scores(labels, prediction, radius)
        assert scores.shape == (IMAGES,)
        assert scores.mean() == pytest.approx(objective.score(metrics))
        assert not scores[prediction < 0].any(), "an image without a certificate adds nothing"
