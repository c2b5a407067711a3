"""Searchers and baselines by name."""

from __future__ import annotations

from typing import Any

from suite.contract.problem import Problem
from suite.contract.searcher import Searcher
from suite.errors import BitcertError
from suite.options import NoOptions, required_options
from suite.plugins import SEARCHERS


def searcher_names() -> tuple[str, ...]:
    """Names of all searchers and baselines, bitcert's own first, then those of other packages."""
    return SEARCHERS.names()


def standalone_names() -> tuple[str, ...]:
    """Names of the methods that run without options; imports all of them."""
    return tuple(name for name in SEARCHERS.names() if not required_options(SEARCHERS.load(name).Options))


def predicting_names() -> tuple[str, ...]:
    """Names of the methods that predict the loss of every policy from probes, and propose the best; imports all of them."""
    from baselines.planned import PlannedSearcher

    found = ((name, SEARCHERS.load(name)) for name in SEARCHERS.names())
    return tuple(name for name, method in found if issubclass(method, PlannedSearcher) and method.predicts_losses)


def make_searcher(name: str, problem: Problem, seed: int = 0, **options: Any) -> Searcher:
    """Make a fresh searcher or baseline for a problem.

    Args:
        name: Registered name, see :func:`searcher_names`, or ``my_module:Class``; options may follow it, such as
            ``arq:episodes=64:reward=certified@0.25``.
        problem: What it will search.
        seed: Seed of the searcher's own randomness.
        **options: Options of the method, as its class documents them; they enter the record of the run.

    Raises:
        BitcertError: If the name or an option is unknown, a value is out of range, or the objective has a second objective
            that the method does not support.
    """
    registered, named = SEARCHERS.parse(name)
    options = {**named, **options}
    found: type[Searcher] = SEARCHERS.load(registered)
    settings = SEARCHERS.options(registered, options)
    if problem.objective.pareto and not found.supports_pareto:
        costs = "+".join(problem.objective.minimized)
        raise BitcertError(
            f"{registered} does not support a second objective; take '+{costs}' off the objective or choose another searcher"
        )
    if seed < 0:
        raise BitcertError(f"seed must not be negative, got {seed}")
    arguments = () if found.Options is NoOptions else (settings,)
    searcher = found(problem, seed, *arguments)
    searcher.name = name
    searcher.options = options
    return searcher
