"""Searchers and baselines by name."""

from __future__ import annotations

import importlib
import inspect
import json
import re
from collections.abc import Sequence
from typing import Any

from baselines import BASELINES
from searchers import SEARCHERS
from suite.contract.problem import Problem
from suite.contract.searcher import Searcher
from suite.errors import BitcertError, unknown_name


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


def parse_searcher(text: str) -> tuple[str, dict[str, Any]]:
    """Read a registered name with options, such as ``arq:episodes=64:reward=certified@0.25``: name, and values by option.

    Values are JSON where they can be, else text.

    Raises:
        BitcertError: If a part after the name is not ``option=value``, or an option is given twice.
    """
    name, *given = text.split(":")
    return name, parse_options(given)


def parse_options(given: Sequence[str]) -> dict[str, Any]:
    """Read ``option=value`` texts; values are JSON where they can be, else text.

    Raises:
        BitcertError: If one is nothing of that kind, or an option is given twice.
    """
    options: dict[str, Any] = {}
    for item in given:
        option, separator, value = item.partition("=")
        if not separator or not option or option in options:
            raise BitcertError(f"options of a searcher are given as NAME=VALUE, each once, got {item!r}")
        try:
            options[option] = json.loads(value)
        except ValueError:
            options[option] = value
    return options


def split_searchers(text: str) -> tuple[str, ...]:
    """Split a list of searchers at its commas, but for those within a value: a name does not begin with a digit."""
    return tuple(re.split(r",(?!\d)", text))


def make_searcher(name: str, problem: Problem, seed: int = 0, **options: Any) -> Searcher:
    """Make a fresh searcher or baseline for a problem.

    Args:
        name: Registered name, see :func:`searcher_names`; options may follow it, as :func:`parse_searcher` reads them.
        problem: What it will search.
        seed: Seed of the searcher's own randomness.
        **options: Options of the method, as its class documents them; they enter the record of the run.

    Raises:
        BitcertError: If the name or an option is unknown, or the objective has BOPs as its second objective and the method
            makes no use of it.
    """
    registered, named = parse_searcher(name)
    options = {**named, **options}
    found = searcher_class(registered)
    known = [option for option in inspect.signature(found).parameters if option not in ("problem", "seed")]
    for option in options:
        if option not in known:
            raise unknown_name(f"option of {registered}", option, known)
    if problem.objective.pareto and not found.supports_pareto:
        raise BitcertError(
            f"{registered} has no use for a second objective; take '+bops' off the objective or choose another searcher"
        )
    if seed < 0:
        raise BitcertError(f"seed must not be negative, got {seed}")
    searcher = found(problem, seed, **options)
    searcher.name = name
    searcher.options = options
    return searcher
