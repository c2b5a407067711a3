"""What the sensitivity methods share: predict every policy's loss once, propose the best few, refine them on request."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import ClassVar, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from baselines.prediction import Prediction, descends
from suite.contract.probes import Probes, ProbeSettings
from suite.contract.problem import Problem
from suite.contract.searcher import Exhausted, Searcher
from suite.contract.space import Part, Policy
from suite.contract.trial import Trial
from suite.options import check_counts

PROPOSALS = 4
"""Policies that a method proposes by default: as many as a search measures a second time."""

Moves = Literal["free", "tied", "weights"]
"""What a method decides: all bits, those of weights and inputs of a layer together, or those of the weights alone."""


@dataclass(frozen=True, slots=True)
class ProbedOptions:
    """Options of every method that probes the network on training images.

    Attributes:
        images: Training images of the loss.
        noise: Noise samples of each image; 0 for none.
        refine: Whether the remaining evaluations search around the policy; the published methods do not.
        proposals: How many policies are proposed without ``refine``: the method's own and the next ones by predicted loss.
    """

    images: int = 128
    noise: int = 1
    refine: bool = False
    proposals: int = PROPOSALS

    def __post_init__(self) -> None:
        check_counts(self, images=1, noise=0, proposals=1)


OptionsT = TypeVar("OptionsT", bound=ProbedOptions)


class PlannedSearcher(Searcher):
    """Proposes the policy that its prediction makes best, then the next ones, or searches around the best one measured.

    Probes are made when the first policy is asked for. The next policies are those of least predicted loss, by which the
    published methods would choose had they to name several: the untried :func:`exchanges` of what has been proposed, within
    what the method decides (:attr:`moves`) and the order of layers that it keeps. They are a cheap stand-in for the next
    solutions of the integer program: on 540 random programs small enough to enumerate, three of them were exactly the next
    three of all feasible policies in 68 % of the cases, and in 90 % the third was one of the next six.

    To refine, the untried exchanges of the best policy measured come in the order of predicted loss: first those just
    described, then all.

    Args:
        problem: What is searched.
        seed: Of the images, the noise and the random vectors of probes.
        settings: Images and noise of the probes.
        refine: Whether the remaining evaluations are used to refine.
        proposals: How many policies are proposed without ``refine``.
    """

    moves: Moves = "free"
    """What the method decides: the rest, of which its prediction knows nothing, stays as planned."""

    predicts_losses: ClassVar[bool] = True
    """Whether the prediction is one of losses, rather than something that only orders the next proposals."""

    def __init__(
        self, problem: Problem, seed: int, settings: ProbeSettings, refine: bool, proposals: int = PROPOSALS
    ) -> None:
        super().__init__(problem, seed)
        self._settings = settings
        self._refine = refine
        self._proposals = proposals
        self._proposed: dict[Policy, None] = {}  # a set that keeps its order
        self._best: tuple[float, Policy] | None = None
        self._around = cache(self._neighbours)

    @property
    def depends_on_budget(self) -> bool:
        """Whether its prediction depends on the problem's budget; if not, one prediction serves all budgets."""
        return False

    @cached_property
    def probes(self) -> Probes:
        """Measurements of the network; images and noise are drawn at the first use."""
        return self.problem.probes(self._settings)

    @cached_property
    def prediction(self) -> Prediction:
        """What the method predicts; probes are made at the first use."""
        return self._predict()

    def ask(self, pending: Sequence[Trial] = ()) -> Policy:
        """Propose the method's policy, then the next ones or refinements of the best one measured, or raise Exhausted."""
        policy = self._next() if self._proposed else self._planned
        self._proposed[policy] = None
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

    def _orders(self) -> Mapping[Part, NDArray[np.float64]]:
        """Sensitivities of the layers by a part, shape ``(layers,)``, along which the method's bits must not rise."""
        return {}

    def _next(self) -> Policy:
        if not self._refine and len(self._proposed) >= self._proposals:
            raise Exhausted(f"the method proposes {self._proposals} policies; refine=true makes it search on")
        if not self._refine:
            untried = self._untried(*self._proposed)
        else:
            centre = self._planned if self._best is None else self._best[1]
            untried = self._untried(centre) or self._untried(centre, anything=True)
        if not untried:
            raise Exhausted("every policy around the best one has been proposed")
        return min(untried, key=self.prediction.loss)

    def _untried(self, *centres: Policy, anything: bool = False) -> list[Policy]:
        found = (policy for centre in centres for policy in self._around(centre, anything))
        return [policy for policy in found if policy not in self._proposed]

    def _neighbours(self, centre: Policy, anything: bool) -> list[Policy]:
        """Exchanges of a policy, of any kind or those that the method itself would make."""
        if anything:
            return list(exchanges(self.problem, centre))
        space, orders = self.problem.space, self._orders()
        return [policy for policy in exchanges(self.problem, centre, self.moves) if descends(space, policy, orders)]


class ProbedSearcher(PlannedSearcher, Generic[OptionsT]):
    """A planned searcher whose probes are set by its options."""

    def __init__(self, problem: Problem, seed: int, options: OptionsT | None = None) -> None:
        self._options: OptionsT = options or self.Options()
        settings = ProbeSettings(self._options.images, self._options.noise, seed)
        super().__init__(problem, seed, settings, self._options.refine, self._options.proposals)


def exchanges(problem: Problem, policy: Policy, moves: Moves = "free") -> Iterator[Policy]:
    """Feasible policies that differ by one step of one variable, or by a step up of one and a step down of another.

    Args:
        problem: Whose space and budget hold.
        policy: A policy of the space.
        moves: ``"tied"`` takes weights and inputs of a layer as one variable, so there are no exchanges where they differ;
            ``"weights"`` leaves the inputs as they are.
    """
    space = replace(problem.space, tie_weight_activation=True) if moves == "tied" else problem.space
    if policy not in space:
        return
    vector = space.encode(policy)
    movable = [
        number for number, slots in enumerate(space.variables) if moves != "weights" or slots[0].part == "weight"
    ]
    ups = [variable for variable in movable if vector[variable] + 1 < len(space.choices)]
    downs = [variable for variable in movable if vector[variable] > 0]
    singles = [((variable, 1),) for variable in ups] + [((variable, -1),) for variable in downs]
    pairs = [((up, 1), (down, -1)) for up, down in itertools.product(ups, downs) if up != down]
    for move in (*singles, *pairs):
        changed = np.array(vector)
        for variable, step in move:
            changed[variable] += step
        neighbour = space.decode(changed)
        if problem.is_feasible(neighbour):
            yield neighbour
