"""Random search: policies drawn within the budget, as they are or with the budget used up, none of them twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from searchers._proposals import Proposals, spend
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

    supports_pareto: ClassVar[bool] = True

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


class RandomFilled(Searcher):
    """Draws policies as random search does, then raises each in random places until the budget is used up.

    A random policy leaves budget unspent that any practitioner would use; this one leaves no single step that it affords.
    None is proposed twice. Where so few policies use up the budget that 32 draws find no new one, any other feasible policy
    follows.
    """

    def __init__(self, problem: Problem, seed: int) -> None:
        super().__init__(problem, seed)
        self._rng = np.random.default_rng(seed)
        self._proposals = Proposals(problem)

    def ask(self, pending: Sequence[Trial] = ()) -> Policy:
        """Propose a new random policy that uses the budget up; Exhausted once every feasible one has been proposed."""
        return self._proposals.take((self._draw() for _ in range(_ATTEMPTS)), pending)

    def tell(self, trial: Trial) -> None:
        """Learn nothing."""

    def _draw(self) -> Policy:
        drawn = random_feasible(self.problem.space, self.problem.budget, self._rng)
        return spend(self.problem, drawn, self._rng)
