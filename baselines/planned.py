"""What the sensitivity methods share: predict every policy's loss once, propose the best, refine it if asked to."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np

from baselines.prediction import Prediction
from suite.contract.probes import Probes, ProbeSettings
from suite.contract.problem import Problem
from suite.contract.searcher import Exhausted, Searcher
from suite.contract.space import Policy
from suite.contract.trial import Trial


class PlannedSearcher(Searcher):
    """Proposes the policy that its prediction makes best, then is exhausted or searches around the best policy measured.

    Probes are made when the first policy is asked for. To refine, the untried policies that differ from the best one
    measured by a step of one variable, or by a step up of one and a step down of another, are proposed in the order of
    their predicted losses.

    Args:
        problem: What is searched.
        seed: Of the images, the noise and the random vectors of probes.
        settings: Images and noise of the probes.
        refine: Whether the rest of the spend is used to refine; the published methods do not.
    """

    def __init__(self, problem: Problem, seed: int, settings: ProbeSettings, refine: bool) -> None:
        super().__init__(problem, seed)
        self._settings = settings
        self._refine = refine
        self._proposed: set[Policy] = set()
        self._best: tuple[float, Policy] | None = None

    @cached_property
    def probes(self) -> Probes:
        """What the network is asked; images and noise are drawn at the first use."""
        return self.problem.probes(self._settings)

    @cached_property
    def prediction(self) -> Prediction:
        """What the method predicts; probes are made at the first use."""
        return self._predict()

    def ask(self, pending: Sequence[Trial] = ()) -> Policy:
        """Propose the predicted best policy; after it raise Exhausted, or propose what refines the best one measured."""
        policy = self._next()
        self._proposed.add(policy)
        return policy

    def tell(self, trial: Trial) -> None:
        """Remember the best policy."""
        if trial.metrics is not None:
            score = self.problem.objective.score(trial.metrics)
            if self._best is None or score > self._best[0]:
                self._best = score, trial.policy

    @abstractmethod
    def _predict(self) -> Prediction:
        """Probe the network."""

    @abstractmethod
    def _plan(self, prediction: Prediction) -> Policy:
        """The feasible policy that the method would use."""

    @cached_property
    def _planned(self) -> Policy:
        return self._plan(self.prediction)

    def _next(self) -> Policy:
        if not self._proposed:
            return self._planned
        if not self._refine:
            raise Exhausted("the method proposes one policy; refine=true makes it search around that")
        centre = self._planned if self._best is None else self._best[1]
        untried = [policy for policy in exchanges(self.problem, centre) if policy not in self._proposed]
        if not untried:
            raise Exhausted("every policy around the best one has been proposed")
        return min(untried, key=self.prediction.loss)


def exchanges(problem: Problem, policy: Policy) -> Iterator[Policy]:
    """Feasible policies that differ by one step of one variable, or by a step up of one and a step down of another."""
    space = problem.space
    vector = space.encode(policy)
    ups = [variable for variable in range(len(vector)) if vector[variable] + 1 < len(space.choices)]
    downs = [variable for variable in range(len(vector)) if vector[variable] > 0]
    moves = [((variable, 1),) for variable in ups] + [((variable, -1),) for variable in downs]
    moves_of_two = [((up, 1), (down, -1)) for up, down in itertools.product(ups, downs) if up != down]
    for move in (*moves, *moves_of_two):
        changed = np.array(vector)
        for variable, step in move:
            changed[variable] += step
        neighbour = space.decode(changed)
        if problem.is_feasible(neighbour):
            yield neighbour
