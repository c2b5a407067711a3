"""Uniform quantization: the same bits in every free layer, one proposal for each affordable pair of bits."""

from __future__ import annotations

from collections.abc import Sequence

from suite.contract.problem import Problem
from suite.contract.searcher import Exhausted, Searcher
from suite.contract.space import Policy
from suite.contract.trial import Trial


class Uniform(Searcher):
    """Proposes every feasible uniform policy once, then is exhausted.

    Most BOPs come first; among equals the pair whose weight and activation bits differ least, then the one with more
    weight bits. A space that ties weight and activation bits has pairs of equal bits only.

    Args:
        problem: What is searched.
        seed: Not used: the method has no randomness.
    """

    def __init__(self, problem: Problem, seed: int) -> None:
        super().__init__(problem, seed)
        space = problem.space
        pairs = [
            (weight, activation)
            for weight in space.choices
            for activation in space.choices
            if weight == activation or not space.tie_weight_activation
        ]
        policies = {pair: space.uniform(*pair) for pair in pairs}
        feasible = [pair for pair in pairs if problem.is_feasible(policies[pair])]
        feasible.sort(key=lambda pair: (-problem.bops(policies[pair]), abs(pair[0] - pair[1]), -pair[0]))
        # A dictionary keeps the order and drops repeats: without free layers all pairs are one policy.
        self._remaining = list(dict.fromkeys(policies[pair] for pair in feasible))[::-1]

    def ask(self, pending: Sequence[Trial] = ()) -> Policy:
        """Propose the next uniform policy; raises Exhausted after the last."""
        if not self._remaining:
            raise Exhausted("every feasible uniform policy has been proposed")
        return self._remaining.pop()

    def tell(self, trial: Trial) -> None:
        """Learn nothing."""
