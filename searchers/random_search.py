"""Random search: policies drawn uniformly within the budget, none of them twice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from searchers._proposals import Proposals
from suite.contract.cost import random_feasible
from suite.contract.problem import Problem
from suite.contract.searcher import Searcher
from suite.contract.space import Policy
from suite.contract.trial import Trial

_ATTEMPTS = 32


class RandomSearch(Searcher):
    """Draws policies close to uniformly from all that are within the budget, without replacement.

    References:
        Bergstra and Bengio, Random search for hyper-parameter optimization, JMLR 13, 2012.
    """

    def __init__(self, problem: Problem, seed: int) -> None:
        super().__init__(problem, seed)
        self._rng = np.random.default_rng(seed)
        self._proposals = Proposals(problem)

    def ask(self, pending: Sequence[Trial] = ()) -> Policy:
        """Propose a new random policy; Exhausted once every feasible policy has been proposed."""
        space, budget = self.problem.space, self.problem.budget
        return self._proposals.take((random_feasible(space, budget, self._rng) for _ in range(_ATTEMPTS)), pending)

    def tell(self, trial: Trial) -> None:
        """Learn nothing."""
