"""Policies that need no search: uniform ones, and the largest of them with the budget filled up greedily."""

from __future__ import annotations

from itertools import product

from suite.contract.cost import cheapest
from suite.contract.problem import Problem
from suite.contract.space import Policy


def uniform_policies(problem: Problem) -> dict[tuple[int, int], Policy]:
    """The feasible uniform policies, by their weight and activation bits."""
    space = problem.space
    pairs = [(w, a) for w, a in product(space.choices, repeat=2) if w == a or not space.tie_weight_activation]
    return {pair: policy for pair in pairs if problem.is_feasible(policy := space.uniform(*pair))}


def heuristic_policies(problem: Problem) -> list[Policy]:
    """The uniform policies of which neither bit width can be raised, then these and the cheapest policy filled up.

    All are feasible and differ from each other; more bits in total come first among the uniform ones.
    """
    feasible = uniform_policies(problem)
    largest = [
        pair
        for pair in feasible
        if not any(other != pair and other[0] >= pair[0] and other[1] >= pair[1] for other in feasible)
    ]
    uniform = [feasible[pair] for pair in sorted(largest, key=lambda pair: (-sum(pair), abs(pair[0] - pair[1])))]
    filled = [fill_up(problem, policy) for policy in (*uniform, cheapest(problem.space))]
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
            if problem.budget.allows(space, raised):
                steps.append((problem.budget.spent(space, raised), variable, raised))
            vector[variable] -= 1
        if not steps:
            return policy
        policy = min(steps)[2]
