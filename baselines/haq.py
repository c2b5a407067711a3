"""HAQ: a DDPG agent that decides layer by layer, rewarded by the accuracy of the quantized network."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from functools import cache
from typing import ClassVar

from searchers.arq import ARQ, ARQOptions
from suite.contract.problem import Problem
from suite.contract.space import Policy
from suite.contract.trial import Fidelity, Metrics, Trial
from suite.errors import BitcertError
from suite.options import check_counts


@dataclass(frozen=True, slots=True)
class HAQOptions:
    """Options of :class:`HAQ`.

    Attributes:
        episodes: Length of the run, after which the agent is exhausted. Warm-up and exploration are fitted to it; at 600
            they are the published ones.
        finetune_steps: Optimizer steps of finetuning before the accuracy of an episode is taken, as in the paper; 0 takes
            that of the evaluation.
    """

    episodes: int = 600
    finetune_steps: int = 0

    def __post_init__(self) -> None:
        check_counts(self, episodes=1, finetune_steps=0)


class HAQ(ARQ):
    """Hardware-aware automated quantization, with the budget's cost as its resource.

    Reward: ``10 * (accuracy of the quantized network - accuracy of the float network)``, without noise, which is the paper's
    0.1 for every percent. State, actions, wall, agent and schedule are those of the released code without its defects:
    accuracy is measured on held-out images in evaluation mode, not on training images in training mode; the features of
    a layer are the same in every episode; the feature that tells weights from activations is kept; no action means zero
    bits; pinned layers take no step; and no spurious step is stored at the end of an episode.

    Evaluations cost what they cost every searcher, noise included. The published agent finetunes every policy before its
    reward: with ``finetune_steps`` each new policy is also finetuned and classified without noise, as a probe that the
    search pays for beside the evaluation; a policy met again costs nothing more, and training that diverges teaches
    nothing. The winner is chosen as for every search, by the problem's objective: HAQ steers by accuracy only.

    Raises:
        BitcertError: If ``finetune_steps`` contradict the problem's protocol; with steps, construction reads the data.

    References:
        Wang, Liu, Lin, Lin and Han, HAQ: Hardware-aware automated quantization with mixed precision, CVPR 2019.
    """

    Options: ClassVar[type] = HAQOptions

    def __init__(self, problem: Problem, seed: int, options: HAQOptions | None = None) -> None:
        options = options or HAQOptions()
        super().__init__(problem, seed, ARQOptions(reward="clean", episodes=options.episodes))
        self._steps = options.finetune_steps
        if self._steps:
            problem.check_fidelity(replace(problem.default_fidelity(), finetune_steps=self._steps))
        self._finetuned_accuracy = cache(self._finetune)

    def _quantized_score(self, trial: Trial, metrics: Metrics) -> float:
        if not self._steps:
            return super()._quantized_score(trial, metrics)
        return self._finetuned_accuracy(trial.policy, trial.fidelity.images, trial.seed)

    def _finetune(self, policy: Policy, images: int, seed: int) -> float:
        """Accuracy of a policy's network after finetuning; NaN if training diverges."""
        fidelity = Fidelity(images, noise=1, finetune_steps=self._steps)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "n = 1 cannot certify")  # accuracy is all that is read
            try:
                return self._reward.score(self.problem.evaluate(policy, fidelity, seed))
            except BitcertError:
                return math.nan
