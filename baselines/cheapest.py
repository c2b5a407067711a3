"""The cheapest policy: every variable at its fewest bits, the floor that any use of the budget has to beat."""

from __future__ import annotations

from collections.abc import Sequence

from suite.contract.cost import cheapest
from suite.contract.problem import Problem
from suite.contract.searcher import Exhausted, Searcher
from suite.contract.space import Policy
from suite.contract.trial import Trial


class Cheapest(Searcher):
    """Proposes the policy that costs least once, then is exhausted."""

    def __init__(self, problem: Problem, seed: int) -> None:
        super().__init__(problem, seed)
        self._proposed = False

    def ask(self, pending: Sequence[Trial] = ()) -> Policy:
        """Propose the cheapest policy; raises Exhausted the second time."""
        if self._proposed:
            raise Exhausted("the cheapest policy has been proposed")
        self._proposed = True
        return cheapest(self.problem.space)

    def tell(self, trial: Trial) -> None:
        """Learn nothing."""
