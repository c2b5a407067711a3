"""bitcert: mixed-precision quantization search under a certified-robustness objective.

The names below are the interface; each is imported when it is first used, so that ``import suite`` is instant.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from suite.contract.cost import Budget
    from suite.contract.problem import Problem
    from suite.contract.searcher import Exhausted, Searcher
    from suite.contract.space import Layer, Policy, Precision, SearchSpace
    from suite.contract.trial import Fidelity, Metrics, Trial
    from suite.errors import BitcertError
    from suite.problems import load_problem, problem_names
    from suite.run.exam import examine
    from suite.run.registry import make_searcher, searcher_names
    from suite.run.state import load_run
    from suite.studies.compare.run import compare, load_comparison
    from suite.studies.experiment import run_experiment
    from suite.studies.search.run import search

_HOME = {
    "BitcertError": "suite.errors",
    "Budget": "suite.contract.cost",
    "Exhausted": "suite.contract.searcher",
    "Fidelity": "suite.contract.trial",
    "Layer": "suite.contract.space",
    "Metrics": "suite.contract.trial",
    "Policy": "suite.contract.space",
    "Precision": "suite.contract.space",
    "Problem": "suite.contract.problem",
    "SearchSpace": "suite.contract.space",
    "Searcher": "suite.contract.searcher",
    "Trial": "suite.contract.trial",
    "compare": "suite.studies.compare.run",
    "examine": "suite.run.exam",
    "load_comparison": "suite.studies.compare.run",
    "load_problem": "suite.problems",
    "load_run": "suite.run.state",
    "make_searcher": "suite.run.registry",
    "problem_names": "suite.problems",
    "run_experiment": "suite.studies.experiment",
    "search": "suite.studies.search.run",
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
    "run_experiment",
    "search",
    "searcher_names",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'suite' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
