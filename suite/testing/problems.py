"""What every problem has to pass."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from dataclasses import replace

import numpy as np
import pytest

from suite.contract.cost import cheapest, random_feasible
from suite.contract.problem import Problem
from suite.contract.space import Policy
from suite.contract.trial import Fidelity, Metrics
from suite.errors import BitcertError


def timeless(metrics: Metrics) -> Metrics:
    """The metrics without the time they took."""
    return replace(metrics, seconds=0.0)


class ProblemConformance(ABC):
    """Evaluations are pure, paid for, and refused over the budget; the problem says what it is.

    Subclasses define :meth:`make` and, where the default fidelity takes long, :attr:`fidelity`.
    """

    fidelity: Fidelity | None = None
    """Fidelity of the evaluations; the problem's own if None."""

    @abstractmethod
    def make(self) -> Problem:
        """Build the problem under test, with a budget below its most expensive policy."""

    def spend(self, problem: Problem) -> Fidelity:
        """The fidelity of the evaluations."""
        return self.fidelity or problem.fidelity

    def policies(self, problem: Problem) -> list[Policy]:
        """Feasible policies, the cheapest first."""
        rng = np.random.default_rng(0)
        return [cheapest(problem.space), *(random_feasible(problem.space, problem.budget, rng) for _ in range(2))]

    def test_the_cheapest_policy_is_feasible_and_bops_are_exact(self) -> None:
        problem = self.make()
        for policy in self.policies(problem):
            assert problem.is_feasible(policy)
            table, pairs = problem.space.per_mac, zip(problem.space.layers, policy.precisions, strict=True)
            operations = [(layer.macs, w * a if table is None else table[w - 1][a - 1]) for layer, (w, a) in pairs]
            assert problem.bops(policy) == sum(macs * each for macs, each in operations)

    def test_evaluations_are_pure_whatever_came_before(self) -> None:
        problem, again = self.make(), self.make()
        fidelity, policies = self.spend(problem), self.policies(problem)
        first = [timeless(problem.evaluate(policy, fidelity, seed=1)) for policy in policies]
        second = [timeless(again.evaluate(policy, fidelity, seed=1)) for policy in reversed(policies)]
        assert first == second[::-1]
        assert timeless(problem.evaluate(policies[0], fidelity, seed=1)) == first[0]

    def test_metrics_are_finite_and_name_the_bops(self) -> None:
        problem = self.make()
        policy = self.policies(problem)[-1]
        metrics = problem.evaluate(policy, self.spend(problem))
        assert metrics.bops == problem.bops(policy)
        assert math.isfinite(problem.objective.score(metrics))
        assert Metrics.from_dict(json.loads(json.dumps(metrics.to_dict()))) == metrics

    def test_what_is_used_is_charged(self) -> None:
        problem = self.make()
        fidelity, policy = self.spend(problem), self.policies(problem)[0]
        assert problem.meter.forward_passes == 0
        for times in (1, 2):  # an answer from a cache costs as much
            metrics = problem.evaluate(policy, fidelity)
            assert metrics.forward_passes > 0
            assert problem.meter.forward_passes == times * metrics.forward_passes
        most = problem.forward_passes(fidelity)
        assert most is None or metrics.forward_passes <= most, "forward_passes says the most that an evaluation makes"
        before = problem.meter.forward_passes
        reference = problem.evaluate_float(fidelity)
        assert problem.meter.forward_passes == before + reference.forward_passes

    def test_policies_over_the_budget_or_from_elsewhere_are_refused_and_cost_nothing(self) -> None:
        problem = self.make()
        top = problem.space.uniform(problem.space.choices[-1])
        assert not problem.is_feasible(top), "make a problem whose budget excludes a policy"
        for policy in (top, Policy.from_bits([2], [2]) if len(problem.space.layers) > 1 else Policy(())):
            with pytest.raises(BitcertError):
                problem.evaluate(policy, self.spend(problem))
        assert problem.meter.forward_passes == 0

    def test_its_record_is_json_and_equal_for_equal_problems(self) -> None:
        problem = self.make()
        record = problem.provenance()
        assert json.loads(json.dumps(record, allow_nan=False)) == record
        assert record == self.make().provenance()

    def test_radii_hold_those_of_the_objective(self) -> None:
        problem = self.make()
        assert set(problem.objective.radii) <= set(problem.radii)
        assert list(problem.radii) == sorted(set(problem.radii))
