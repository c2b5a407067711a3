"""Searchers and baselines by name."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from baselines import BASELINES
from searchers import SEARCHERS
from suite.errors import BitcertError, unknown_name
from suite.problem import Problem
from suite.searcher import Searcher


def searcher_names() -> tuple[str, ...]:
    """Names of all searchers and baselines, searchers first, in the order of their registries."""
    return (*SEARCHERS, *BASELINES)


def searcher_class(name: str) -> type[Searcher]:
    """The class registered under a name; raises BitcertError listing the known ones if there is none."""
    registered = {**SEARCHERS, **BASELINES}
    if name not in registered:
        raise unknown_name("searcher", name, registered)
    module, _, attribute = registered[name].partition(":")
    found: type[Searcher] = getattr(importlib.import_module(module), attribute)
    return found


def make_searcher(name: str, problem: Problem, seed: int = 0, **options: Any) -> Searcher:
    """Make a fresh searcher or baseline for a problem.

    Args:
        name: Registered name, see :func:`searcher_names`.
        problem: What it will search.
        seed: Seed of the searcher's own randomness.
        **options: Options of the method, as its class documents them; they enter the record of the run.

    Raises:
        BitcertError: If the name or an option is unknown, or the objective has BOPs as its second objective and the method
            makes no use of it.
    """
    found = searcher_class(name)
    known = [option for option in inspect.signature(found).parameters if option not in ("problem", "seed")]
    for option in options:
        if option not in known:
            raise unknown_name(f"option of {name}", option, known)
    if problem.objective.pareto and not found.supports_pareto:
        raise BitcertError(
            f"{name} has no use for a second objective; take '+bops' off the objective or choose another searcher"
        )
    if seed < 0:
        raise BitcertError(f"seed must not be negative, got {seed}")
    searcher = found(problem, seed, **options)
    searcher.name = name
    searcher.options = options
    return searcher
