"""LIMPQ: quantizer steps, learned jointly over all numbers of bits, are the importance of layers."""

from __future__ import annotations

import numpy as np

from baselines.planned import PlannedSearcher
from baselines.prediction import Prediction, best_policy
from searchers._options import check_count, check_positive
from suite.contract.probes import ProbeSettings
from suite.contract.problem import Problem
from suite.contract.space import Policy


class LIMPQ(PlannedSearcher):
    """LIMPQ: least sum of learned quantizer steps within the budget, by integer programming.

    A layer counts with ``step of its inputs + alpha * step of its weights``. The steps of all layers and numbers of bits
    are trained together on the training images, the network's weights frozen. A step that comes out smaller than that of
    more bits, an outlier of the joint training, counts as much as that one; the released code forbids the choice.

    Args:
        problem: What is searched.
        seed: Of order, noise and random policies in training.
        epochs: Passes over the training images.
        images: How many of them, drawn by the seed; None for all.
        alpha: Weight of the weights' steps; 2 in the released code.
        refine: Whether the rest of the spend is used to search around the policy; the paper does not.

    References:
        Tang et al., Mixed-precision neural network quantization via learned layer-wise importance, ECCV 2022.
    """

    def __init__(
        self,
        problem: Problem,
        seed: int,
        *,
        epochs: int = 3,
        images: int | None = None,
        alpha: float = 2.0,
        refine: bool = False,
    ) -> None:
        super().__init__(problem, seed, ProbeSettings(images=1, seed=seed), refine=refine)
        self._epochs = check_count("epochs", epochs, 1)
        self._images = None if images is None else check_count("images", images, 1)
        self._alpha = check_positive("alpha", alpha)

    def _predict(self) -> Prediction:
        steps = self.probes.learned_steps(self._epochs, self._images)
        weights, activations = np.maximum.accumulate(steps[:, :, ::-1], axis=2)[:, :, ::-1]
        return Prediction(self.problem.space, self._alpha * weights, activations)

    def _plan(self, prediction: Prediction) -> Policy:
        return best_policy(self.problem, prediction)
