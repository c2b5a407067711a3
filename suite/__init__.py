"""bitcert: mixed-precision quantization search under a certified-robustness objective.

The names below are the interface; each is imported when it is first used, so that ``import suite`` is instant.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from suite.certify.exam import ExamSettings
    from suite.contract.cost import Budget, Limit
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

_NAMES = {
    "suite.certify.exam": ["ExamSettings"],
    "suite.contract.cost": ["Budget", "Limit"],
    "suite.contract.problem": ["Problem"],
    "suite.contract.searcher": ["Exhausted", "Searcher"],
    "suite.contract.space": ["Layer", "Policy", "Precision", "SearchSpace"],
    "suite.contract.trial": ["Fidelity", "Metrics", "Trial"],
    "suite.errors": ["BitcertError"],
    "suite.problems": ["load_problem", "problem_names"],
    "suite.run.exam": ["examine"],
    "suite.run.registry": ["make_searcher", "searcher_names"],
    "suite.run.state": ["load_run"],
    "suite.studies.compare.run": ["compare", "load_comparison"],
    "suite.studies.experiment": ["run_experiment"],
    "suite.studies.search.run": ["search"],
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = ["BitcertError", "Budget", "ExamSettings", "Exhausted", "Fidelity", "Layer", "Limit", "Metrics", "Policy"]
__all__ += ["Precision", "Problem", "SearchSpace", "Searcher", "Trial", "compare", "examine", "load_comparison"]
__all__ += ["load_problem", "load_run", "make_searcher", "problem_names", "run_experiment", "search", "searcher_names"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'suite' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
