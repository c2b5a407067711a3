"""Hill climbing: move to the first neighbour that scores better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from suite.contract.cost import random_feasible, repair
from suite.contract.problem import Problem
from suite.contract.searcher import Searcher
from suite.contract.space import Policy
from suite.contract.trial import Trial
from suite.options import check_counts


@dataclass(frozen=True, slots=True)
class HillClimbingOptions:
    """Options of :class:`HillClimbing`.

    Attributes:
        changes: Variables redrawn in every proposal.
    """

    changes: int = 2

    def __post_init__(self) -> None:
        check_counts(self, changes=1)


class HillClimbing(Searcher):
    """Redraws some variables of the best policy so far, and keeps what scores better.

    Args:
        problem: What is searched.
        seed: Seed of all draws.
        options: See :class:`HillClimbingOptions`.
    """

    Options: ClassVar[type] = HillClimbingOptions

    def __init__(self, problem: Problem, seed: int, options: HillClimbingOptions | None = None) -> None:
        super().__init__(problem, seed)
        self._changes = (options or HillClimbingOptions()).changes
        self._rng = np.random.default_rng(seed)
        self._best: tuple[float, Policy] = (-np.inf, random_feasible(problem.space, problem.budget, self._rng))

    def ask(self, pending: Sequence[Trial] = ()) -> Policy:
        """Propose a change of the best policy, within the budget."""
        space, vector = self.problem.space, self.problem.space.encode(self._best[1])
        for _ in range(self._changes if len(vector) else 0):
            vector[self._rng.integers(len(vector))] = self._rng.integers(len(space.choices))
        return repair(space, space.decode(vector), self.problem.budget, self._rng)

    def tell(self, trial: Trial) -> None:
        """Keep the policy if it scores better."""
        if trial.metrics is not None:
            self._best = max(
                self._best, (self.problem.objective.score(trial.metrics), trial.policy), key=lambda b: b[0]
            )
