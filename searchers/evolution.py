"""Evolution as in single-path one-shot: crossover and mutation of the best ten, children over the budget rejected."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from searchers._proposals import Proposals
from suite.contract.cost import random_feasible
from suite.contract.problem import Problem
from suite.contract.searcher import Exhausted, Searcher
from suite.contract.space import Policy
from suite.contract.trial import Trial
from suite.options import check_counts, check_probabilities

_RANDOM_DRAWS = 32


@dataclass(frozen=True, slots=True)
class EvolutionOptions:
    """Options of :class:`Evolution`; the defaults are those of the paper and its released code.

    Attributes:
        population: Policies in a generation.
        generations: Generations, the random first one included; the search ends after them.
        parents: The best policies of all generations so far, from which children are bred.
        mutation_rate: Probability that a variable of a mutated child is drawn again, from all choices.
        attempts: Draws for each child of a generation on average, before random policies take the places left.
    """

    population: int = 50
    generations: int = 20
    parents: int = 10
    mutation_rate: float = 0.1
    attempts: int = 10

    def __post_init__(self) -> None:
        check_counts(self, population=2, generations=1, parents=1, attempts=1)
        check_probabilities(self, "mutation_rate")


class Evolution(Searcher):
    """The evolutionary search of single-path one-shot (SPOS).

    The first generation is random. Half of every other one are uniform crossovers of two parents, half are mutations of
    one; parents are the best policies of all that were seen when the generation began. A child that is over the budget or
    was proposed before is rejected and drawn again, never repaired, so it differs from its parents only as crossover and
    mutation made it. When the draws of a generation are used up, random feasible policies fill it, and after the last
    generation the search is exhausted.

    The paper evaluates a generation before it breeds the next one. With several trials under way, those still pending when
    a generation begins become parents from the next one on. Failed trials become no one's parents.

    References:
        Guo, Zhang, Mu, Heng, Liu, Wei and Sun, Single path one-shot neural architecture search with uniform sampling,
        ECCV 2020, algorithm 1.
    """

    Options: ClassVar[type] = EvolutionOptions

    def __init__(self, problem: Problem, seed: int, options: EvolutionOptions | None = None) -> None:
        super().__init__(problem, seed)
        self._settings = options or EvolutionOptions()
        self._rng = np.random.default_rng(seed)
        self._proposals = Proposals(problem)
        self._proposed = 0
        self._scores: dict[Policy, float] = {}
        self._parents: list[NDArray[np.int64]] = []
        self._crossovers: Iterator[Policy] = iter(())
        self._mutations: Iterator[Policy] = iter(())

    def ask(self, pending: Sequence[Trial] = ()) -> Policy:
        """Propose the next policy of the generation; raises Exhausted after the last one, or when none is new."""
        settings = self._settings
        generation, place = divmod(self._proposed, settings.population)
        if generation == settings.generations:
            raise Exhausted(f"all {settings.generations} generations of {settings.population} have been proposed")
        if place == 0:
            self._begin_generation()
        children = self._crossovers if place < settings.population // 2 else self._mutations
        policy = self._proposals.take(chain(children, self._random()), pending)
        self._proposed += 1
        return policy

    def tell(self, trial: Trial) -> None:
        """Remember the policy, whoever proposed it, and the score of a successful trial."""
        self._proposals.add(trial.policy)
        if trial.metrics is not None:
            self._scores[trial.policy] = self.problem.objective.score(trial.metrics)

    def _begin_generation(self) -> None:
        """Choose the parents; in the first generation, which has none, there are no children to draw."""
        settings, space = self._settings, self.problem.space
        best = sorted(self._scores, key=self._scores.__getitem__, reverse=True)[: settings.parents]
        self._parents = [space.encode(policy) for policy in best]
        crossovers = settings.population // 2 if self._parents else 0
        mutations = settings.population - crossovers if self._parents else 0
        self._crossovers = self._within_budget(self._cross() for _ in range(settings.attempts * crossovers))
        self._mutations = self._within_budget(self._mutate() for _ in range(settings.attempts * mutations))

    def _within_budget(self, children: Iterator[Policy]) -> Iterator[Policy]:
        return (child for child in children if self.problem.budget.allows(self.problem.space, child))

    def _cross(self) -> Policy:
        one, other = (self._parents[index] for index in self._rng.integers(len(self._parents), size=2))
        return self.problem.space.decode(np.where(self._rng.random(len(one)) < 0.5, one, other))

    def _mutate(self) -> Policy:
        space, parent = self.problem.space, self._parents[self._rng.integers(len(self._parents))]
        redrawn = self._rng.integers(len(space.choices), size=len(parent))
        return space.decode(np.where(self._rng.random(len(parent)) < self._settings.mutation_rate, redrawn, parent))

    def _random(self) -> Iterator[Policy]:
        for _ in range(_RANDOM_DRAWS):
            yield random_feasible(self.problem.space, self.problem.budget, self._rng)
