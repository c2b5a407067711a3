"""NSGA-II: an elitist genetic algorithm by nondominated sorting (by Optuna)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from optuna.samplers import NSGAIISampler
from optuna.samplers.nsgaii import UniformCrossover

from searchers._study import StudySearcher
from suite.contract.problem import Problem
from suite.options import check_counts, check_probabilities


@dataclass(frozen=True, slots=True)
class NSGA2Options:
    """Options of :class:`NSGA2`; the defaults are Optuna's.

    Attributes:
        population: Policies in a generation; the first one is random.
        crossover_probability: Share of children that have two parents.
        mutation_probability: Probability that a child's variable is redrawn; None for one variable on average.
    """

    population: int = 50
    crossover_probability: float = 0.9
    mutation_probability: float | None = None

    def __post_init__(self) -> None:
        check_counts(self, population=2)
        check_probabilities(self, "crossover_probability", "mutation_probability")


class NSGA2(StudySearcher):
    """Nondominated sorting genetic algorithm II on repaired policies.

    Population 50, crossover with probability 0.9, variables swapped with probability 0.5, and mutation at one over their
    number are the defaults of Optuna; only the first population is drawn among the feasible policies, and children over
    the budget are repaired (:func:`suite.contract.cost.repair`).

    A generation consists of the policies evaluated, never of the suggestions they were repaired from: those would be
    dominated by every feasible policy and only fill places. A failed trial takes no place in its generation. With one
    objective, domination is plain comparison of scores, which makes this an elitist genetic algorithm.

    References:
        Deb, Pratap, Agarwal and Meyarivan, A fast and elitist multiobjective genetic algorithm: NSGA-II, IEEE
        Transactions on Evolutionary Computation 6(2), 2002.
    """

    Options: ClassVar[type] = NSGA2Options

    def __init__(self, problem: Problem, seed: int, options: NSGA2Options | None = None) -> None:
        options = options or NSGA2Options()
        rng = np.random.default_rng(seed)
        sampler = NSGAIISampler(
            population_size=options.population,
            mutation=None,  # redraw uniformly: few choices per variable, and Optuna's only operator is experimental
            mutation_prob=options.mutation_probability,  # None is one over the number of variables
            crossover=UniformCrossover(swapping_prob=0.5),  # the order of layers favours no place to cut at
            crossover_prob=options.crossover_probability,
            swapping_prob=0.5,  # for categorical parameters, of which there are none
            seed=int(rng.integers(2**32)),
            constraints_func=None,  # deprecated, and every policy that is told is feasible
            elite_population_selection_strategy=None,  # this and the next two: the algorithm of the paper
            child_generation_strategy=None,
            after_trial_strategy=None,
        )
        super().__init__(problem, seed, sampler, rng, startup=options.population, tell_excess=False)
