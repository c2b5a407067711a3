"""From a comparison to a leaderboard, statistics and figures.

Everything here shows exam scores; where a search score appears, it is called a search estimate. The names below are
imported when they are first used, so that reading a comparison does not load matplotlib.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from suite.report.aggregates import interquartile_mean as interquartile_mean
    from suite.report.aggregates import performance_profile as performance_profile
    from suite.report.aggregates import probability_of_improvement as probability_of_improvement
    from suite.report.anytime import normalized_score as normalized_score
    from suite.report.anytime import sample_truths as sample_truths
    from suite.report.anytime import simple_regret as simple_regret
    from suite.report.anytime import time_to_target as time_to_target
    from suite.report.comparison import Comparison as Comparison
    from suite.report.decision_figures import plot_attainment as plot_attainment
    from suite.report.decision_figures import plot_critical_difference as plot_critical_difference
    from suite.report.decision_figures import plot_profiles as plot_profiles
    from suite.report.decision_figures import plot_regret as plot_regret
    from suite.report.decision_figures import plot_times_to_target as plot_times_to_target
    from suite.report.fronts import attainment_surfaces as attainment_surfaces
    from suite.report.fronts import hypervolume as hypervolume
    from suite.report.fronts import relative_hypervolume as relative_hypervolume
    from suite.report.intervals import compare_outcomes as compare_outcomes
    from suite.report.layout import leaderboard_table as leaderboard_table
    from suite.report.plots import plot_best_so_far as plot_best_so_far
    from suite.report.plots import plot_certified_accuracy as plot_certified_accuracy
    from suite.report.plots import plot_front as plot_front
    from suite.report.plots import plot_score_by_bops as plot_score_by_bops
    from suite.report.policies import plot_policies as plot_policies
    from suite.report.power import detectable_effect as detectable_effect
    from suite.report.power import seeds_for_power as seeds_for_power
    from suite.report.progress import Progress as Progress
    from suite.report.ranking import leaderboard as leaderboard
    from suite.report.ranks import compare_by_ranks as compare_by_ranks
    from suite.report.ranks import rank_searchers as rank_searchers
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
    "aggregates": "interquartile_mean performance_profile probability_of_improvement",
    "anytime": "normalized_score sample_truths simple_regret time_to_target",
    "comparison": "Comparison",
    "decision_figures": "plot_attainment plot_critical_difference plot_profiles plot_regret plot_times_to_target",
    "fronts": "attainment_surfaces hypervolume relative_hypervolume",
    "intervals": "compare_outcomes",
    "layout": "leaderboard_table",
    "plots": "plot_best_so_far plot_certified_accuracy plot_front plot_score_by_bops",
    "policies": "plot_policies",
    "power": "detectable_effect seeds_for_power",
    "progress": "Progress",
    "ranking": "leaderboard",
    "ranks": "compare_by_ranks rank_searchers",
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
