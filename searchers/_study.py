"""An Optuna study of feasible policies: what Optuna is asked, and what it is told."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, ClassVar

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from searchers._proposals import Proposals, mutations
from suite.contract.cost import random_feasible, repair, take_table
from suite.contract.problem import Problem
from suite.contract.searcher import Searcher
from suite.contract.space import Policy
from suite.contract.trial import Trial

_MAXIMIZE, _MINIMIZE = optuna.study.StudyDirection.MAXIMIZE, optuna.study.StudyDirection.MINIMIZE


class StudySearcher(Searcher):
    """Follows an Optuna sampler; the points of its in-memory study are feasible policies, all different.

    One integer parameter, the index into ``choices``, stands for each variable of the space. What the sampler suggests
    is repaired if it is over the budget (:func:`suite.contract.cost.repair`), and mutated if it was proposed before. The
    study then holds the policy *evaluated* as a running trial, told when its result is known. The point *suggested*,
    where it differs, is never given a score: it is closed as failed, which every sampler ignores, or on request as pruned
    with its relative excess over the budget as a violated constraint.

    The first ``startup`` results are those of random feasible policies: a uniform draw that is repaired is far from uniform
    among these. Costs that the problem's objective minimizes are further objectives of the study, as shares of their limits,
    or of what the most bits cost.

    Args:
        problem: What is searched.
        seed: Seed of ``rng``.
        sampler: The Optuna sampler.
        rng: Source of the randomness outside the sampler.
        startup: Number of successful trials before the sampler's suggestions are followed.
        tell_excess: Whether over-budget suggestions stay in the study as violated constraints.
        first: Feasible policies that are proposed before random ones.

    Attributes:
        study: The Optuna study, to be read.
    """

    supports_pareto: ClassVar[bool] = True

    def __init__(
        self,
        problem: Problem,
        seed: int,
        sampler: optuna.samplers.BaseSampler,
        rng: np.random.Generator,
        *,
        startup: int,
        tell_excess: bool,
        first: Sequence[Policy] = (),
    ) -> None:
        super().__init__(problem, seed)
        self._rng = rng
        self._startup = startup
        self._tell_excess = tell_excess
        self._first = list(first)
        self._proposals = Proposals(problem)
        self._numbers: dict[Policy, int] = {}
        self._finished = 0
        self._scales = _scales(problem)
        self._distributions: dict[str, BaseDistribution] = {
            f"{index:04d}": IntDistribution(0, len(problem.space.choices) - 1, log=False, step=1)
            for index in range(len(problem.space.variables))
        }
        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # creating a study logs, and nothing else used here does
        try:
            self.study = optuna.create_study(
                storage=optuna.storages.InMemoryStorage(),
                sampler=sampler,
                pruner=optuna.pruners.NopPruner(),
                study_name=problem.name,
                directions=[_MAXIMIZE, *[_MINIMIZE] * len(problem.objective.minimized)],
            )
        finally:
            optuna.logging.set_verbosity(verbosity)

    def ask(self, pending: Sequence[Trial] = ()) -> Policy:
        """Turn the sampler's next suggestion into a new feasible policy."""
        space, budget = self.problem.space, self.problem.budget
        suggestion = self.study.ask(self._distributions)
        suggested = space.decode(list(suggestion.params.values()))
        if self._finished < self._startup:
            wanted = self._first.pop(0) if self._first else random_feasible(space, budget, self._rng)
        else:
            wanted = repair(space, suggested, budget, self._rng)
        policy = self._proposals.take(chain([wanted], mutations(self.problem, wanted, self._rng)), pending)
        if policy == suggested:
            self._numbers[policy] = suggestion.number
            return policy
        # Copied before the constraint is set: NSGA-II keeps the generation that the suggestion was made for in here.
        attributes = dict(self.study.get_trials(deepcopy=False)[suggestion.number].system_attrs)
        exceeded = budget.exceeded(space, suggested)
        if self._tell_excess and exceeded and self._finished >= self._startup:
            for limit in exceeded:
                excess = limit.cost.total(space, suggested) / limit.most - 1
                suggestion.set_constraint(f"excess {limit.cost.name}", excess)
            self.study.tell(suggestion, state=TrialState.PRUNED)
        else:
            self.study.tell(suggestion, state=TrialState.FAIL)
        self._numbers[policy] = self._add(policy, attributes)
        return policy

    def _add(self, policy: Policy, attributes: dict[str, Any]) -> int:
        """Add a policy to the study as a running trial; returns its number."""
        number = len(self.study.get_trials(deepcopy=False))
        self.study.add_trial(
            create_trial(
                state=TrialState.RUNNING,
                params=dict(zip(self._distributions, self.problem.space.encode(policy).tolist(), strict=True)),
                distributions=self._distributions,
                system_attrs=attributes,
            )
        )
        return number

    def tell(self, trial: Trial) -> None:
        """Tell the study the result of a policy, once; a failed trial is ignored by every sampler.

        A policy that was not proposed here, such as one of a portfolio, joins the study like the others.
        """
        number = self._numbers.pop(trial.policy, None)
        if number is None:
            if not self._proposals.add(trial.policy):
                return
            number = self._add(trial.policy, {})
        if trial.metrics is None:
            self.study.tell(number, state=TrialState.FAIL)
            return
        self._finished += 1
        costs = [trial.metrics.cost(name) / most for name, most in self._scales.items()]
        self.study.tell(number, [self.problem.objective.score(trial.metrics), *costs])


def _scales(problem: Problem) -> dict[str, int]:
    """What costs to minimize are divided by, in whole units: their limits, or what the most bits cost."""
    space, limits = problem.space, {limit.cost.name: limit.cost.units(limit.most) for limit in problem.budget.limits}
    dearest = space.uniform(space.choices[-1])
    rules = [take_table(cost, space) for cost in problem.objective.costs]
    return {rule.name: limits.get(rule.name) or max(1, rule.units(rule.total(space, dearest))) for rule in rules}
