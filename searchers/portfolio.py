"""Portfolio: policies that were good on other problems, then another method that has seen them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from suite.contract.problem import Problem
from suite.contract.searcher import Exhausted, Searcher
from suite.contract.space import Policy
from suite.contract.trial import Trial
from suite.errors import BitcertError
from suite.options import check_counts
from suite.plugins import SEARCHERS


@dataclass(frozen=True, slots=True)
class PortfolioOptions:
    """Options of :class:`Portfolio`.

    Attributes:
        sources: Complete tables of other networks with the same space, joined by ``+``.
        size: Policies of the portfolio.
        then: What goes on after them, told their trials: a method by its name; ``"none"`` for nothing.
    """

    sources: str
    size: int = 8
    then: str = "evolution"

    def __post_init__(self) -> None:
        check_counts(self, size=1)


class Portfolio(Searcher):
    """A zero-shot portfolio: the few policies of which one was good on each of several other problems, then another method.

    On every source, a table of the same space, each feasible policy has a normalized score: 1 for the best within the budget and
    0 for the mean. Greedily, the policy is added that raises most the mean over sources of the best score chosen so far. A source
    may not be about the target's network, and its scores are those on search images, so nothing of any exam is in them. What the
    sources cost is charged to nobody; a comparison should say so.

    References:
        Wistuba, Schilling and Schmidt-Thieme, Sequential model-free hyperparameter tuning, ICDM 2015.
    """

    Options: ClassVar[type] = PortfolioOptions

    def __init__(self, problem: Problem, seed: int, options: PortfolioOptions) -> None:
        super().__init__(problem, seed)
        self._waiting = choose_portfolio(problem, options.sources.split("+"), options.size)
        self._next: Searcher | None = None
        if options.then != "none":
            kind = SEARCHERS.load(options.then)
            self._next = kind(problem, seed)

    def ask(self, pending: Sequence[Trial] = ()) -> Policy:
        """The next of the portfolio, best first, then what the other method proposes."""
        if self._waiting:
            return self._waiting.pop(0)
        if self._next is None:
            raise Exhausted("the portfolio has no further policy")
        return self._next.ask(pending)

    def tell(self, trial: Trial) -> None:
        """Pass it on."""
        if self._next is not None:
            self._next.tell(trial)


def choose_portfolio(problem: Problem, files: Sequence[str], size: int) -> list[Policy]:
    """Choose policies by their scores on tables, at the problem's budget.

    Raises:
        BitcertError: If a table has another space, is about the problem's own network, or does not hold every policy.
    """
    policies, scores = source_scores(problem, files)
    return [policies[place] for place in greedy_cover(scores, min(size, len(policies)))]


def source_scores(problem: Problem, files: Sequence[str]) -> tuple[list[Policy], NDArray[np.float64]]:
    """What tables say on search images of every policy within a problem's budget: 1 for the best, 0 for the mean.

    Args:
        problem: The target.
        files: Complete tables of other networks with the same space; see :func:`suite.problems.tabular.load_table`.

    Returns:
        The policies, and their scores, shape ``(sources, policies)``.

    Raises:
        BitcertError: As :func:`choose_portfolio`.
    """
    from suite.problems.tabular import load_table

    own, found = problem.provenance().get("network_sha256"), []
    for file in files:
        source = load_table(file, budget=problem.budget.text, objective=problem.objective.text)
        if source.space != problem.space:
            raise BitcertError(f"{file} is about another space; a portfolio needs tables of the problem's own space")
        if source.provenance()["network_sha256"] == own:
            raise BitcertError(f"{file} is about the problem's own network; a portfolio learns from others")
        if not source.table.is_complete:
            raise BitcertError(f"{file} does not hold every policy")
        kept = [
            (policy, score)
            for policy, score in zip(source.table.policies, source.scores(source.top), strict=True)
            if problem.is_feasible(policy)
        ]
        found.append(_normalized(np.array([score for _, score in kept])))
    return [policy for policy, _ in kept], np.array(found)


def greedy_cover(scores: NDArray[np.float64], size: int) -> list[int]:
    """Positions whose best score, averaged over rows, rises most with each; shape of ``scores`` is ``(sources, policies)``."""
    best, chosen = np.full(len(scores), -np.inf), list[int]()
    for _ in range(size):
        gains = np.maximum(best[:, None], scores).mean(axis=0)
        gains[chosen] = -np.inf
        chosen.append(int(np.argmax(gains)))
        best = np.maximum(best, scores[:, chosen[-1]])
    return chosen


def _normalized(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((values - values.mean()) / max(values.max() - values.mean(), np.finfo(float).tiny))
