"""bitcert: mixed-precision quantization search under a certified-robustness objective.

The names below are the interface; each is imported when it is first used, so that ``import suite`` is instant.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from suite.cost import Budget
    from suite.errors import BitcertError
    from suite.problem import Fidelity, Metrics, Problem, Trial
    from suite.problems import load_problem, problem_names
    from suite.run.comparison import compare, load_comparison, search
    from suite.run.exam import examine
    from suite.run.loop import load_run
    from suite.run.registry import make_searcher, searcher_names
    from suite.searcher import Exhausted, Searcher
    from suite.space import Layer, Policy, Precision, SearchSpace

_HOME = {
    "BitcertError": "suite.errors",
    "Budget": "suite.cost",
    "Exhausted": "suite.searcher",
    "Fidelity": "suite.problem",
    "Layer": "suite.space",
    "Metrics": "suite.problem",
    "Policy": "suite.space",
    "Precision": "suite.space",
    "Problem": "suite.problem",
    "SearchSpace": "suite.space",
    "Searcher": "suite.searcher",
    "Trial": "suite.problem",
    "compare": "suite.run.comparison",
    "examine": "suite.run.exam",
    "load_comparison": "suite.run.comparison",
    "load_problem": "suite.problems",
    "load_run": "suite.run.loop",
    "make_searcher": "suite.run.registry",
    "problem_names": "suite.problems",
    "search": "suite.run.comparison",
    "searcher_names": "suite.run.registry",
}

__all__ = [
    "BitcertError",
    "Budget",
    "Exhausted",
    "Fidelity",
    "Layer",
    "Metrics",
    "Policy",
    "Precision",
    "Problem",
    "SearchSpace",
    "Searcher",
    "Trial",
    "compare",
    "examine",
    "load_comparison",
    "load_problem",
    "load_run",
    "make_searcher",
    "problem_names",
    "search",
    "searcher_names",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'suite' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
