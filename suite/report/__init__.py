"""From a comparison to a leaderboard, statistics and figures.

Everything here shows exam scores; where a search score appears, it is called a search estimate.
"""

from suite.report.intervals import compare_outcomes
from suite.report.leaderboard import leaderboard
from suite.report.plots import plot_best_so_far, plot_certified_accuracy, plot_score_by_bops
from suite.report.policies import plot_policies
from suite.report.rows import tidy_rows
from suite.report.statistics import compare_searchers, seeds_needed, summarize
from suite.report.tables import print_leaderboard, to_markdown
from suite.report.write import write_report

__all__ = [
    "compare_outcomes",
    "compare_searchers",
    "leaderboard",
    "plot_best_so_far",
    "plot_certified_accuracy",
    "plot_policies",
    "plot_score_by_bops",
    "print_leaderboard",
    "seeds_needed",
    "summarize",
    "tidy_rows",
    "to_markdown",
    "write_report",
]
