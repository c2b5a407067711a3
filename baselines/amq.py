"""AMQ: a predictor of the score, refitted after every batch, on which a genetic algorithm looks for the next batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RBFInterpolator

from baselines.nondominated import NondominatedSort, evolve
from baselines.prediction import free_groups
from searchers._proposals import Proposals
from suite.contract.cost import Cost, cheapest, random_feasible, take_table
from suite.contract.probes import ProbeSettings
from suite.contract.problem import Problem
from suite.contract.searcher import Searcher
from suite.contract.space import Policy, SearchSpace
from suite.contract.trial import Trial
from suite.options import check_counts, check_positive, check_probabilities

_ATTEMPTS = 32


@dataclass(frozen=True, slots=True)
class AMQOptions:
    """Options of :class:`AMQ`; the defaults are those of the release, meant for 10,000 evaluations.

    Attributes:
        initial: Random policies that the first predictor is fitted to. With fewer evaluations the method is random search.
        batch: Policies proposed between two fits.
        population: Members of the genetic algorithm.
        generations: Generations on each predictor, the first of them the archive's front.
        crossover_probability: Share of children that have two parents.
        mutation_probability: Share of children that are drawn at random altogether, as the released operator does.
        threshold: A layer more sensitive than this many times the median keeps the most bits; None leaves all layers free.
        images: Training images on which sensitivities are measured.
        noise: Noise samples of each image; 0 for none.
    """

    initial: int = 250
    batch: int = 50
    population: int = 200
    generations: int = 20
    crossover_probability: float = 0.9
    mutation_probability: float = 0.1
    threshold: float | None = 2.0
    images: int = 128
    noise: int = 1

    def __post_init__(self) -> None:
        check_counts(self, initial=2, batch=1, population=2, generations=1, images=1, noise=0)
        check_probabilities(self, "crossover_probability", "mutation_probability")
        check_positive(self, "threshold")


class AMQ(Searcher):
    """AMQ: radial basis functions predict the score, NSGA-II on them proposes policies spread over all costs.

    First the sensitive layers get the most bits for good. Then come random policies, and in turn a fit of the predictor (cubic
    radial basis functions with a linear tail) to all policies measured, NSGA-II for predicted score and cost from the
    front of these, and a batch of its policies whose costs fill the gaps between those on the front.

    Four things differ from the release, which searches bits of weights for the whole front of quality and size. Policies
    over the budget are infeasible; several limits, and costs that the objective minimizes, are an objective each. A layer is
    sensitive by the loss that it adds with the fewest bits, all others at the most, and the sensitive ones are pinned, the
    most sensitive first, only as long as half of what the budget leaves above the cheapest policy stays for the others. The
    batch is spread greedily rather than by a second genetic algorithm. Failed trials teach nothing; the release takes them
    for the worst.

    References:
        Lee, Woo, Jin, Lee and Park, AMQ: Enabling AutoML for mixed-precision weight-only quantization of large language
        models, EMNLP 2025; https://github.com/dlwns147/amq.
    """

    Options: ClassVar[type] = AMQOptions
    supports_pareto: ClassVar[bool] = True

    def __init__(self, problem: Problem, seed: int, options: AMQOptions | None = None) -> None:
        super().__init__(problem, seed)
        self._options = options or AMQOptions()
        self._rng = np.random.default_rng(seed)
        self._proposals = Proposals(problem)
        self._asked: set[Policy] = set()
        self._queue: deque[Policy] = deque()
        self._archive: dict[Policy, float] = {}

    @cached_property
    def space(self) -> SearchSpace:
        """The space with the sensitive layers pinned; they are measured at the first use."""
        if self._options.threshold is None:
            return self.problem.space
        settings = ProbeSettings(self._options.images, self._options.noise, self.seed)
        return pin_sensitive(self.problem, added_losses(self.problem, settings), self._options.threshold)

    @cached_property
    def _rules(self) -> list[Cost]:
        """What the budget limits, and then what else the objective minimizes."""
        rules = {limit.cost.name: limit.cost for limit in self.problem.budget.limits}
        for cost in self.problem.objective.costs:
            rules.setdefault(cost.name, take_table(cost, self.problem.space))
        return list(rules.values())

    @cached_property
    def _scales(self) -> NDArray[np.float64]:
        """What makes costs comparable to the first: the ratio of their limits; what the most bits cost, where there is none."""
        space, limits = self.problem.space, self.problem.budget.limits
        dearest = space.uniform(space.choices[-1])
        most = [limit.most for limit in limits] + [rule.total(space, dearest) for rule in self._rules[len(limits) :]]
        return np.asarray(max(1, most[0]) / np.maximum(1.0, np.array(most, dtype=float)))

    def ask(self, pending: Sequence[Trial] = ()) -> Policy:
        """Propose a feasible policy not proposed before; raises Exhausted when there is none."""
        policy = self._proposals.take(self._candidates(), pending)
        self._asked.add(policy)
        return policy

    def tell(self, trial: Trial) -> None:
        """Take a successful trial into the archive."""
        if trial.metrics is not None and trial.policy in self.space:
            self._archive[trial.policy] = self.problem.objective.score(trial.metrics)

    def _candidates(self) -> Iterator[Policy]:
        if not self._queue:
            self._queue.extend(self._next_batch() if self._asked else self._first_batch())
        while self._queue:
            yield self._queue.popleft()
        yield from self._random(_ATTEMPTS)

    def _first_batch(self) -> list[Policy]:
        """The uniform policies within the budget, then random ones."""
        uniform = [
            policy for bits in self.space.choices if self.problem.is_feasible(policy := self.space.uniform(bits))
        ]
        return list(dict.fromkeys([*uniform, *self._random(2 * self._options.initial)]))[: self._options.initial]

    def _next_batch(self) -> list[Policy]:
        """Untried policies that the predictor makes best, their costs spread between those of the archive's front."""
        if len(self._archive) < 2 or not self.space.variables:
            return list(self._random(self._options.batch))
        known = np.array([self.space.encode(policy) for policy in self._archive])
        losses = -np.array(list(self._archive.values()))
        predict = Predictor(known, losses, len(self.space.choices))
        limits = self.problem.budget.limits  # their costs come first
        most, scales = np.array([limit.most for limit in limits], dtype=float), self._scales
        costs = self._costs(self._archive) * scales
        front = NondominatedSort(np.column_stack([losses, costs])).rank == 0

        def evaluate(vectors: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
            spent = self._costs(map(self.space.decode, vectors))
            excess = np.maximum(0.0, spent[:, : len(limits)] - most) * scales[: len(limits)]
            return np.column_stack([predict(vectors), spent * scales]), excess.sum(axis=1)

        options = self._options
        found, objectives = evolve(
            known[front],
            evaluate,
            choices=len(self.space.choices),
            population=options.population,
            generations=options.generations,
            crossover_probability=options.crossover_probability,
            mutation_probability=options.mutation_probability,
            rng=self._rng,
        )
        policies = [self.space.decode(vector) for vector in found]
        new = [
            row for row, policy in enumerate(policies) if policy not in self._asked and self.problem.is_feasible(policy)
        ]
        chosen = spread(objectives[new, 1:], objectives[new, 0], costs[front], options.batch)
        return [policies[new[row]] for row in chosen]

    def _costs(self, policies: Iterable[Policy]) -> NDArray[np.float64]:
        """Costs of policies, shape ``(policies, rules)``."""
        space, rules = self.problem.space, self._rules
        return np.array([[rule.total(space, policy) for rule in rules] for policy in policies], dtype=float)

    def _random(self, count: int) -> Iterator[Policy]:
        for _ in range(count):
            yield random_feasible(self.space, self.problem.budget, self._rng)


def added_losses(problem: Problem, settings: ProbeSettings) -> dict[tuple[str, ...], float]:
    """What each layer (with those tied to it) adds to the loss at the fewest bits, all others at the most; not below 0."""
    space, probes = problem.space, problem.probes(settings)
    most, fewest = space.uniform(space.choices[-1]).precisions, cheapest(space).precisions
    least = probes.measure(Policy(most)).loss
    found = {}
    for group in free_groups(space):
        mixed = [few if n in group else many for n, (few, many) in enumerate(zip(fewest, most, strict=True))]
        names = tuple(space.layers[layer].name for layer in group)
        found[names] = max(0.0, probes.measure(Policy(tuple(mixed))).loss - least)
    return found


def pin_sensitive(problem: Problem, losses: Mapping[tuple[str, ...], float], threshold: float) -> SearchSpace:
    """The space with layers pinned to the most bits whose loss exceeds ``threshold`` times the median.

    The most sensitive come first; one whose pin would take the cheapest policy beyond half of what a limit leaves above it
    now stays free.
    """
    space, lowest = problem.space, cheapest(problem.space)
    highest = space.uniform(space.choices[-1]).precisions
    most = {layer.name: precision for layer, precision in zip(space.layers, highest, strict=True)}
    if not losses or len(space.choices) == 1:
        return space
    bound = threshold * float(np.median(list(losses.values())))
    halves = [(limit.cost.total(space, lowest) + limit.most, limit.cost) for limit in problem.budget.limits]
    pinned = space
    for group in sorted((group for group in losses if losses[group] > bound), key=lambda group: -losses[group]):
        pins = dict(pinned.pinned) | {name: most[name] for name in group}
        narrower = replace(pinned, pins=pins, ties=tuple(tie for tie in pinned.ties if tie != group))
        if all(2 * cost.total(space, cheapest(narrower)) <= both for both, cost in halves):
            pinned = narrower
    return pinned


class Predictor:
    """Radial basis functions through known losses.

    Args:
        vectors: Policies, shape ``(policies, variables)``, distinct.
        losses: Theirs, shape ``(policies,)``.
        choices: Values that a variable takes.
    """

    def __init__(self, vectors: NDArray[np.int64], losses: NDArray[np.float64], choices: int) -> None:
        self._scale = max(1, choices - 1)
        points = vectors / self._scale
        plane = np.column_stack([np.ones(len(points)), points])
        determined = np.linalg.matrix_rank(plane) == plane.shape[1]
        if determined:
            self._interpolator = RBFInterpolator(points, losses, kernel="cubic", degree=1)
        else:  # too few policies for a linear tail
            self._interpolator = RBFInterpolator(points, losses, kernel="linear", degree=0)

    def __call__(self, vectors: NDArray[np.int64]) -> NDArray[np.float64]:
        """Predicted losses of policies."""
        return np.asarray(self._interpolator(vectors / self._scale))


def spread(
    costs: NDArray[np.float64], losses: NDArray[np.float64], taken: NDArray[np.float64], count: int
) -> list[int]:
    """Choose candidates one after the other, each at costs farthest from all taken so far; of equals the least loss.

    Costs are as far from each other as those that differ the most.

    Args:
        costs: Of the candidates, shape ``(candidates, rules)``.
        losses: Of the candidates, shape ``(candidates,)``.
        taken: Costs that are taken from the start, shape ``(at least one, rules)``.
        count: Most candidates.
    """
    distance = np.abs(costs[:, None] - taken).max(axis=2).min(axis=1, initial=np.inf)
    chosen: list[int] = []
    for _ in range(min(count, len(costs))):
        left = np.setdiff1d(np.arange(len(costs)), chosen)
        best = int(left[np.lexsort((losses[left], -distance[left]))[0]])
        chosen.append(best)
        distance = np.minimum(distance, np.abs(costs - costs[best]).max(axis=1))
    return chosen
