"""Uniform quantization: the same bits in every free layer, one proposal for each affordable pair of bits."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from searchers._heuristics import uniform_policies
from suite.contract.problem import Problem
from suite.contract.searcher import Exhausted, Searcher
from suite.contract.space import Policy
from suite.contract.trial import Trial


class Uniform(Searcher):
    """Proposes every feasible uniform policy once, then is exhausted.

    The most expensive come first, by what the budget limits and then by BOPs; among equals the pair whose weight and activation
    bits differ least, then the one with more weight bits.
    """

    def __init__(self, problem: Problem, seed: int) -> None:
        super().__init__(problem, seed)
        policies = uniform_policies(problem)

        def order(pair: tuple[int, int]) -> tuple[Fraction, int, int, int]:
            return (
                -problem.budget.spent(problem.space, policies[pair]),
                -problem.bops(policies[pair]),
                abs(pair[0] - pair[1]),
                -pair[0],
            )

        # A dictionary keeps the order and drops repeats: without free layers all pairs are one policy.
        self._remaining = list(dict.fromkeys(policies[pair] for pair in sorted(policies, key=order)))[::-1]

    def ask(self, pending: Sequence[Trial] = ()) -> Policy:
        """Propose the next uniform policy; raises Exhausted after the last."""
        if not self._remaining:
            raise Exhausted("every feasible uniform policy has been proposed")
        return self._remaining.pop()

    def tell(self, trial: Trial) -> None:
        """Learn nothing."""
