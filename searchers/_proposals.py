"""What searchers share when they propose: moves within the budget, and never the same policy twice."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from suite.contract.cost import cheapest, repair
from suite.contract.problem import Problem
from suite.contract.searcher import Exhausted
from suite.contract.space import Policy
from suite.contract.trial import Trial


class Proposals:
    """Remembers what was proposed, so that no policy is proposed again while the budget leaves a new one.

    Args:
        problem: What is searched.
    """

    def __init__(self, problem: Problem) -> None:
        self._space, self._budget = problem.space, problem.budget
        self._known: set[Policy] = set()

    def take(self, candidates: Iterable[Policy], pending: Sequence[Trial] = ()) -> Policy:
        """Choose the first candidate that is new, or else any new feasible policy, and remember it.

        Args:
            candidates: Feasible policies in order of preference, finitely many.
            pending: Trials whose policies count as known as well.

        Raises:
            Exhausted: If every feasible policy of the space has been proposed.
        """
        self._known.update(trial.policy for trial in pending)
        chosen = next((policy for policy in candidates if policy not in self._known), None)
        chosen = self._first_unknown() if chosen is None else chosen
        self._known.add(chosen)
        return chosen

    def add(self, policy: Policy) -> bool:
        """Remember a policy that was proposed elsewhere; returns whether it is new."""
        new = policy not in self._known
        self._known.add(policy)
        return new

    def _first_unknown(self) -> Policy:
        # Feasible policies stay feasible when bits are lowered, so all of them are reached from the cheapest one in
        # single steps. The walk goes through known policies only: it ends after at most as many as are known.
        start = cheapest(self._space)
        queue, met = deque([start]), {start}
        while queue:
            policy = queue.popleft()
            if policy not in self._known:
                return policy
            for neighbour in self._space.neighbours(policy):
                if neighbour not in met and self._budget.allows(self._space, neighbour):
                    met.add(neighbour)
                    queue.append(neighbour)
        raise Exhausted(f"all {len(met)} feasible policies have been proposed")


def mutate(problem: Problem, policy: Policy, rng: np.random.Generator, rate: float) -> Policy:
    """Redraw each variable with probability ``rate``, at least one of them, and repair the result if it is over the budget.

    Args:
        problem: What is searched.
        policy: A policy of its space; returned as it is when the space has nothing to change.
        rng: Source of randomness.
        rate: Probability of each variable, in 0..1.
    """
    space = problem.space
    vector, count = space.encode(policy), len(space.choices)
    if len(vector) == 0 or count == 1:
        return policy
    changed = rng.random(len(vector)) < rate
    changed[rng.integers(len(vector))] = True
    # A step of 1 .. count - 1 around the circle of choices reaches every other choice equally often.
    steps = rng.integers(1, count, size=len(vector))
    redrawn = space.decode(np.where(changed, (vector + steps) % count, vector))
    return repair(space, redrawn, problem.budget, rng)


def mutations(problem: Problem, policy: Policy, rng: np.random.Generator, attempts: int = 32) -> Iterator[Policy]:
    """Yield mutations of a policy, going farther away: from one redrawn variable to about half of them."""
    for attempt in range(attempts):
        yield mutate(problem, policy, rng, rate=0.5 * attempt / attempts)


def spend(problem: Problem, policy: Policy, rng: np.random.Generator) -> Policy:
    """Raise a feasible policy, one step of a random variable after the other, until the budget affords no further step."""
    space = problem.space
    vector = space.encode(policy)
    open_variables = list(range(len(vector)))
    while open_variables:
        rng.shuffle(open_variables)
        affordable = []
        for variable in open_variables:
            if vector[variable] + 1 == len(space.choices):
                continue
            vector[variable] += 1
            if problem.budget.allows(space, space.decode(vector)):
                affordable.append(variable)
            else:
                vector[variable] -= 1
        open_variables = affordable  # a step over the budget stays so: raising others only adds cost
    return space.decode(vector)
