"""NSGA-II: an elitist genetic algorithm by nondominated sorting (by Optuna)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from optuna.samplers import NSGAIISampler
from optuna.samplers.nsgaii import UniformCrossover

from searchers._options import check_count, check_probability
from searchers._study import WalledStudy
from suite.contract.problem import Problem
from suite.contract.searcher import Searcher
from suite.contract.space import Policy
from suite.contract.trial import Trial


class NSGA2(Searcher):
    """Nondominated sorting genetic algorithm II on policies repaired by the budget wall.

    A generation consists of the policies evaluated, never of the suggestions they were repaired from: those would be
    dominated by every feasible policy and only fill places. A failed trial takes no place in its generation. With one
    objective, domination is plain comparison of scores, which makes this an elitist genetic algorithm.

    Args:
        problem: What is searched; with ``+bops`` in its objective, score and BOPs are two objectives.
        seed: Seed of the sampler and of the first generation.
        population: Policies in a generation. 12 leaves 5 to 21 generations in 64 to 256 evaluations.
        crossover_probability: Share of children that have two parents.
        mutation_probability: Probability that a child's variable is redrawn; None for one variable on average.

    Raises:
        BitcertError: If an option is out of range.

    References:
        Deb, Pratap, Agarwal and Meyarivan, A fast and elitist multiobjective genetic algorithm: NSGA-II, IEEE
        Transactions on Evolutionary Computation 6(2), 2002.
    """

    supports_pareto: ClassVar[bool] = True

    def __init__(
        self,
        problem: Problem,
        seed: int,
        *,
        population: int = 12,
        crossover_probability: float = 0.9,
        mutation_probability: float | None = None,
    ) -> None:
        super().__init__(problem, seed)
        if mutation_probability is not None:
            check_probability("mutation_probability", mutation_probability)
        rng = np.random.default_rng(seed)
        sampler = NSGAIISampler(
            population_size=check_count("population", population, 2),
            mutation=None,  # redraw uniformly: few choices a variable, and Optuna's only operator is experimental
            mutation_prob=mutation_probability,  # None is one over the number of variables, as in the paper
            crossover=UniformCrossover(
                swapping_prob=0.5
            ),  # layers have no order that would favour cutting in one place
            crossover_prob=check_probability("crossover_probability", crossover_probability),  # 0.9 in the paper
            swapping_prob=0.5,  # for categorical parameters; there are none
            seed=int(rng.integers(2**32)),
            constraints_func=None,  # deprecated, and every policy that is told is feasible
            elite_population_selection_strategy=None,  # this and the next two: the algorithm of the paper
            child_generation_strategy=None,
            after_trial_strategy=None,
        )
        self.walled = WalledStudy(problem, sampler, rng, startup=population, tell_excess=False)

    def ask(self, pending: Sequence[Trial] = ()) -> Policy:
        """Propose a feasible policy not proposed before; raises Exhausted when there is none."""
        return self.walled.propose(pending)

    def tell(self, trial: Trial) -> None:
        """Add a proposed policy to its generation, unless it failed."""
        self.walled.learn(trial)
