"""The contract of a search method: ask for a policy, tell it the trial."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from suite.contract.problem import Problem
from suite.contract.space import Policy
from suite.contract.trial import Trial
from suite.options import NoOptions


class Exhausted(Exception):  # noqa: N818 (no error: it ends a search)
    """Raised by :meth:`Searcher.ask` when a method has no more to propose."""


class Searcher(ABC):
    """Proposes feasible policies and learns from trials.

    A searcher is a deterministic function of its problem, its seed, its options and the sequence of calls: it keeps all
    randomness in a generator of its own, so that a run can resume by replay. It reads ``problem.space``,
    ``problem.budget`` and ``problem.objective``; everything else it uses of the problem is metered.

    A method with options names their frozen dataclass as ``Options`` and takes one as its third argument, or None for the
    defaults.

    Args:
        problem: What is searched.
        seed: Seed of the searcher's own randomness.

    Attributes:
        name: Name in records; the registered one when made by ``suite.make_searcher``, else the class's.
        options: The method's options that differ from their defaults, JSON-ready, for the record.
    """

    Options: ClassVar[type] = NoOptions
    """The dataclass of the method's options, which its ``__post_init__`` checks."""

    supports_pareto: ClassVar[bool] = False
    """Whether the method supports costs to minimize as further objectives."""

    learns_from_repeats: ClassVar[bool] = False
    """Whether proposing a known policy again teaches the method something; such a method must end by itself."""

    def __init__(self, problem: Problem, seed: int) -> None:
        self.problem = problem
        self.seed = seed
        self.name = type(self).__name__
        self.options: Mapping[str, Any] = {}

    @abstractmethod
    def ask(self, pending: Sequence[Trial] = ()) -> Policy:
        """Propose a feasible policy.

        Args:
            pending: Trials proposed but not yet told, in order; a method should avoid proposing them again.

        Raises:
            Exhausted: When the method has no more to propose.
        """

    @abstractmethod
    def tell(self, trial: Trial) -> None:
        """Learn from a finished trial, successful (``trial.metrics``) or failed (``trial.failure``)."""
