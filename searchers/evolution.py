"""Regularized evolution: tournaments among the latest policies, the oldest of which leaves with every newcomer."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from searchers._proposals import Proposals, mutate, spend
from suite.contract.cost import random_feasible
from suite.contract.problem import Problem
from suite.contract.searcher import Searcher
from suite.contract.space import Policy
from suite.contract.trial import Trial
from suite.errors import BitcertError
from suite.plugins import check_counts, check_probabilities

_ATTEMPTS = 32


class _Member(NamedTuple):
    score: float
    policy: Policy


@dataclass(frozen=True, slots=True)
class EvolutionOptions:
    """Options of :class:`Evolution`.

    Attributes:
        population: Members that may become parents. The paper's 100 are for 20,000 evaluations.
        tournament: Members drawn, without replacement, to choose a parent from. Half of the population is a stronger
            selection than the paper's quarter, for runs of a few generations.
        crossover_probability: Share of children that have two parents; 0 is the paper's algorithm.
        mutation_rate: Probability that a variable is redrawn, at least one always is; None for one over their number.
        spend_budget: Whether children are raised again where budget is left.
    """

    population: int = 16
    tournament: int = 8
    crossover_probability: float = 0.5
    mutation_rate: float | None = None
    spend_budget: bool = True

    def __post_init__(self) -> None:
        check_counts(self, population=2, tournament=1)
        check_probabilities(self, "crossover_probability", "mutation_rate")
        if self.tournament > self.population:
            raise BitcertError(
                f"a tournament of {self.tournament} is larger than the population of {self.population}; lower it"
            )


class Evolution(Searcher):
    """Aging evolution with uniform crossover, behind the budget wall.

    Starts with random feasible policies. Then each child has the winner of a tournament as its parent, or, with some
    probability, mixes the variables of two winners; it is mutated, brought within the budget by the wall, and raised
    again in random places while the budget allows it. The last step is not in the paper: under a hard budget the wall
    alone lets spending only sink. Members leave by age, whatever their score, once ``population`` younger ones have
    succeeded. Failed trials become no one's parent and push nobody out.

    References:
        Real, Aggarwal, Huang and Le, Regularized evolution for image classifier architecture search, AAAI 2019.
    """

    Options: ClassVar[type] = EvolutionOptions

    def __init__(self, problem: Problem, seed: int, options: EvolutionOptions | None = None) -> None:
        super().__init__(problem, seed)
        self._settings = options = options or EvolutionOptions()
        one = 1 / max(1, len(problem.space.variables))
        self._mutation_rate = one if options.mutation_rate is None else options.mutation_rate
        self._members: deque[_Member] = deque(maxlen=options.population)
        self._rng = np.random.default_rng(seed)
        self._proposals = Proposals(problem)

    def ask(self, pending: Sequence[Trial] = ()) -> Policy:
        """Propose a feasible policy not proposed before; raises Exhausted when there is none."""
        return self._proposals.take(self._candidates(), pending)

    def tell(self, trial: Trial) -> None:
        """Take a successful trial into the population, in which the oldest member makes room for it."""
        if trial.metrics is not None:
            self._members.append(_Member(self.problem.objective.score(trial.metrics), trial.policy))

    def _candidates(self) -> Iterator[Policy]:
        for _ in range(_ATTEMPTS):
            if len(self._members) < self._settings.population:
                yield random_feasible(self.problem.space, self.problem.budget, self._rng)
            else:
                yield self._child()

    def _child(self) -> Policy:
        space, policy = self.problem.space, self._parent()
        if self._rng.random() < self._settings.crossover_probability:
            one, other = space.encode(policy), space.encode(self._parent())
            policy = space.decode(np.where(self._rng.random(len(one)) < 0.5, one, other))
        policy = mutate(self.problem, policy, self._rng, self._mutation_rate)
        return spend(self.problem, policy, self._rng) if self._settings.spend_budget else policy

    def _parent(self) -> Policy:
        entrants = self._rng.choice(self._settings.population, size=self._settings.tournament, replace=False)
        return max((self._members[entrant] for entrant in entrants), key=lambda member: member.score).policy
