"""Policies that need no search: the largest uniform ones, and what a greedy use of the budget makes of them."""

from __future__ import annotations

from itertools import product

from suite.contract.cost import cheapest
from suite.contract.problem import Problem
from suite.contract.space import Policy


def heuristic_policies(problem: Problem) -> list[Policy]:
    """The uniform policies of which neither bit width can be raised, then these and the cheapest policy filled up.

    All are feasible and differ from each other; more bits in total come first among the uniform ones.
    """
    space = problem.space
    pairs = [pair for pair in product(space.choices, repeat=2) if pair[0] == pair[1] or not space.tie_weight_activation]
    feasible = [pair for pair in pairs if problem.is_feasible(space.uniform(*pair))]
    largest = [
        pair
        for pair in feasible
        if not any(other != pair and other[0] >= pair[0] and other[1] >= pair[1] for other in feasible)
    ]
    uniform = [space.uniform(*pair) for pair in sorted(largest, key=lambda pair: (-sum(pair), abs(pair[0] - pair[1])))]
    filled = [fill_up(problem, policy) for policy in (*uniform, cheapest(space))]
    return list(dict.fromkeys([*uniform, *filled]))


def fill_up(problem: Problem, policy: Policy) -> Policy:
    """Raise a feasible policy while the budget allows it, always by the single step that costs least."""
    space = problem.space
    while True:
        vector = space.encode(policy)
        steps = []
        for variable in (vector + 1 < len(space.choices)).nonzero()[0].tolist():
            vector[variable] += 1
            raised = space.decode(vector)
            steps.append((problem.cost(raised), variable, raised))
            vector[variable] -= 1
        if not steps or min(steps)[0] > problem.budget.limit:
            return policy
        policy = min(steps)[2]
