"""LIMPQ: quantizer steps, learned jointly over all bit widths, are the importance of layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from baselines.planned import PROPOSALS, PlannedSearcher
from baselines.prediction import Prediction, best_policy
from suite.contract.probes import ProbeSettings
from suite.contract.problem import Problem
from suite.contract.space import Policy
from suite.options import check_counts, check_positive


@dataclass(frozen=True, slots=True)
class LIMPQOptions:
    """Options of :class:`LIMPQ`.

    Attributes:
        epochs: Passes over the training images.
        images: How many of them, drawn by the seed; None for all.
        alpha: Weight of the weights' steps; 2 in the released code.
        freeze_weights: Whether only the steps are learned, on the network as it is; the released code has the same option.
        refine: Whether the rest of the spend is used to search around the policy; the paper does not.
        proposals: How many policies are proposed without ``refine``.
    """

    epochs: int = 3
    images: int | None = None
    alpha: float = 2.0
    freeze_weights: bool = False
    refine: bool = False
    proposals: int = PROPOSALS

    def __post_init__(self) -> None:
        check_counts(self, epochs=1, images=1, proposals=1)
        check_positive(self, "alpha")


class LIMPQ(PlannedSearcher):
    """LIMPQ: least sum of learned quantizer steps within the budget, by integer programming.

    A layer counts with ``step of its inputs + alpha * step of its weights``. The steps of all layers and bit widths are
    trained together on the training images and, as in the released code, the weights of a copy of the network with them,
    with a batch norm for each bit width; 3 to 10 epochs are usual. The policy is applied to the network itself: the
    method is meant to be followed by finetuning, which is the protocol's choice. A step that comes out smaller than that
    of more bits, an outlier of the joint training, counts as much as that one; the released code forbids the choice.

    References:
        Tang et al., Mixed-precision neural network quantization via learned layer-wise importance, ECCV 2022.
    """

    Options: ClassVar[type] = LIMPQOptions

    def __init__(self, problem: Problem, seed: int, options: LIMPQOptions | None = None) -> None:
        self._options = options = options or LIMPQOptions()
        super().__init__(problem, seed, ProbeSettings(images=1, seed=seed), options.refine, options.proposals)

    def _predict(self) -> Prediction:
        options = self._options
        steps = self.probes.learned_steps(options.epochs, options.images, freeze_weights=options.freeze_weights)
        weights, activations = np.maximum.accumulate(steps[:, :, ::-1], axis=2)[:, :, ::-1]
        return Prediction(self.problem.space, self._options.alpha * weights, activations)

    def _plan(self, prediction: Prediction) -> Policy:
        return best_policy(self.problem, prediction)
