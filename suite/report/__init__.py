"""From a comparison to a leaderboard, statistics and figures.

Everything here shows exam scores; where a search score appears, it is called a search estimate. The names below are
imported when they are first used, so that reading a comparison does not load matplotlib.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from suite.report.comparison import Comparison
    from suite.report.plots import plot_best_so_far, plot_certified_accuracy, plot_score_by_bops
    from suite.report.policies import plot_policies
    from suite.report.progress import Progress
    from suite.report.ranking import leaderboard, leaderboard_table
    from suite.report.statistics import compare_outcomes, compare_searchers, seeds_needed, summarize
    from suite.report.table import Column, Table
    from suite.report.write import write_files, write_report

__all__ = [
    "Column",
    "Comparison",
    "Progress",
    "Table",
    "compare_outcomes",
    "compare_searchers",
    "leaderboard",
    "leaderboard_table",
    "plot_best_so_far",
    "plot_certified_accuracy",
    "plot_policies",
    "plot_score_by_bops",
    "seeds_needed",
    "summarize",
    "write_files",
    "write_report",
]

_HOMES = {
    "comparison": ("Comparison",),
    "plots": ("plot_best_so_far", "plot_certified_accuracy", "plot_score_by_bops"),
    "policies": ("plot_policies",),
    "progress": ("Progress",),
    "ranking": ("leaderboard", "leaderboard_table"),
    "statistics": ("compare_outcomes", "compare_searchers", "seeds_needed", "summarize"),
    "table": ("Column", "Table"),
    "write": ("write_files", "write_report"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"suite.report.{home}"), name)
    raise AttributeError(f"module 'suite.report' has no attribute {name!r}")
