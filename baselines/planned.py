"""What the sensitivity methods share: predict every policy's loss once, propose the best, refine it on request."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

import numpy as np

from baselines.prediction import Prediction
from suite.contract.probes import Probes, ProbeSettings
from suite.contract.problem import Problem
from suite.contract.searcher import Exhausted, Searcher
from suite.contract.space import Policy
from suite.contract.trial import Trial
from suite.plugins import check_counts


@dataclass(frozen=True, slots=True)
class ProbedOptions:
    """Options of every method that probes the network on training images.

    Attributes:
        images: Training images of the loss.
        noise: Noise samples of each image; 0 for none.
        refine: Whether the remaining evaluations search around the policy; the published methods do not.
    """

    images: int = 128
    noise: int = 1
    refine: bool = False

    def __post_init__(self) -> None:
        check_counts(self, images=1, noise=0)


OptionsT = TypeVar("OptionsT", bound=ProbedOptions)


class PlannedSearcher(Searcher):
    """Proposes the policy that its prediction makes best, then is exhausted or searches around the best policy measured.

    Probes are made when the first policy is asked for. To refine, it proposes the untried :func:`exchanges` of the best
    policy measured, in the order of their predicted losses.

    Args:
        problem: What is searched.
        seed: Of the images, the noise and the random vectors of probes.
        settings: Images and noise of the probes.
        refine: Whether the remaining evaluations are used to refine.
    """

    def __init__(self, problem: Problem, seed: int, settings: ProbeSettings, refine: bool) -> None:
        super().__init__(problem, seed)
        self._settings = settings
        self._refine = refine
        self._proposed: set[Policy] = set()
        self._best: tuple[float, Policy] | None = None

    @cached_property
    def probes(self) -> Probes:
        """Measurements of the network; images and noise are drawn at the first use."""
        return self.problem.probes(self._settings)

    @cached_property
    def prediction(self) -> Prediction:
        """What the method predicts; probes are made at the first use."""
        return self._predict()

    def ask(self, pending: Sequence[Trial] = ()) -> Policy:
        """Propose the policy predicted best, then refinements of the best one measured, or raise Exhausted."""
        policy = self._next() if self._proposed else self._planned
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
        if not self._refine:
            raise Exhausted("the method proposes one policy; refine=true makes it search around that")
        centre = self._planned if self._best is None else self._best[1]
        untried = [policy for policy in exchanges(self.problem, centre) if policy not in self._proposed]
        if not untried:
            raise Exhausted("every policy around the best one has been proposed")
        return min(untried, key=self.prediction.loss)


class ProbedSearcher(PlannedSearcher, Generic[OptionsT]):
    """A planned searcher whose probes are set by its options."""

    def __init__(self, problem: Problem, seed: int, options: OptionsT | None = None) -> None:
        self._options: OptionsT = options or self.Options()
        settings = ProbeSettings(self._options.images, self._options.noise, seed)
        super().__init__(problem, seed, settings, self._options.refine)


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
