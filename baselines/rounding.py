"""Policies from real bit widths: what is nearest within a budget."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from suite.contract.cost import cheapest
from suite.contract.problem import Problem
from suite.contract.space import Policy


def round_within_budget(problem: Problem, bits: NDArray[np.float64]) -> Policy:
    """Shift all bits by one offset and round them to choices: the largest offset within the budget, then single steps.

    The first half is what bisection over the offset finds, without its tolerance: an offset matters only where it takes a variable
    past the middle between two choices, so these middles are visited in ascending order. Once one of them is over the budget,
    single steps spend what is left, in the same order: the variables that come closest to being rounded up come first.
    Costs never fall when bits are raised, so what does not fit once never will.

    Args:
        problem: Whose space and budget hold.
        bits: Real bit widths, shape ``(2, layers)``, weights first; of tied slots the mean counts, and pins are left as they are.
    """
    space, choices = problem.space, np.array(problem.space.choices, dtype=float)
    wanted = variable_bits(problem, bits)
    offsets = (choices[1:] + choices[:-1]) / 2 - wanted[:, None]
    vector = space.encode(cheapest(space))
    full = np.zeros(len(vector), dtype=bool)
    for number in np.argsort(offsets, axis=None, kind="stable"):
        variable = number // max(1, len(choices) - 1)
        if full[variable]:
            continue
        vector[variable] += 1
        if not problem.is_feasible(space.decode(vector)):
            vector[variable] -= 1
            full[variable] = True
    return space.decode(vector)


def variable_bits(problem: Problem, bits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Real bit widths of the variables of a space, shape ``(variables,)``, from those of the layers."""
    flat = bits.reshape(-1)
    return np.array([flat[list(slots)].mean() for slots in problem.space.flat_variables], dtype=float)
