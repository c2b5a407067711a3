"""A clock that stands still unless told, and a problem that reads it."""

from __future__ import annotations

from suite.contract.clock import Clock, ReplayClock
from suite.contract.space import Policy
from suite.contract.trial import Fidelity, Metrics
from suite.problems.separable import SeparableProblem


class TimedProblem(SeparableProblem):
    """A problem whose evaluations take as long as a table says: two seconds, and an eighth for every bit of the weights."""

    def __init__(self, budget: str = "w3a3") -> None:
        super().__init__(budget=budget)
        self.virtual = ReplayClock()
        self.clock: Clock = self.virtual

    def evaluate(self, policy: Policy, fidelity: Fidelity, seed: int = 0) -> Metrics:
        self.virtual.advance(seconds_of(policy))
        return super().evaluate(policy, fidelity, seed)


def seconds_of(policy: Policy) -> float:
    """How long the evaluation of a policy takes."""
    return 2 + sum(policy.weights) / 8
