"""From a comparison to a leaderboard, statistics and figures.

Everything here shows exam scores; where a search score appears, it is called a search estimate. The names below are
imported when they are first used, so that reading a comparison does not load matplotlib.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from suite.report.comparison import Comparison as Comparison
    from suite.report.intervals import compare_outcomes as compare_outcomes
    from suite.report.layout import leaderboard_table as leaderboard_table
    from suite.report.plots import plot_best_so_far as plot_best_so_far
    from suite.report.plots import plot_certified_accuracy as plot_certified_accuracy
    from suite.report.plots import plot_front as plot_front
    from suite.report.plots import plot_score_by_bops as plot_score_by_bops
    from suite.report.policies import plot_policies as plot_policies
    from suite.report.progress import Progress as Progress
    from suite.report.ranking import leaderboard as leaderboard
    from suite.report.reliability import anova_reliability as anova_reliability
    from suite.report.reliability import spearman as spearman
    from suite.report.reliability import split_half as split_half
    from suite.report.reliability import visible_correlation as visible_correlation
    from suite.report.statistics import compare_searchers as compare_searchers
    from suite.report.statistics import ranking_reliability as ranking_reliability
    from suite.report.statistics import seeds_needed as seeds_needed
    from suite.report.statistics import summarize as summarize
    from suite.report.table import Column as Column
    from suite.report.table import Table as Table
    from suite.report.write import write_files as write_files
    from suite.report.write import write_report as write_report

_HOMES = {
    "comparison": "Comparison",
    "intervals": "compare_outcomes",
    "layout": "leaderboard_table",
    "plots": "plot_best_so_far plot_certified_accuracy plot_front plot_score_by_bops",
    "policies": "plot_policies",
    "progress": "Progress",
    "ranking": "leaderboard",
    "reliability": "anova_reliability spearman split_half visible_correlation",
    "statistics": "compare_searchers ranking_reliability seeds_needed summarize",
    "table": "Column Table",
    "write": "write_files write_report",
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names.split():
            return getattr(importlib.import_module(f"suite.report.{home}"), name)
    raise AttributeError(f"module 'suite.report' has no attribute {name!r}")
