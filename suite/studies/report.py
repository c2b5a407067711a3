"""The verb ``report``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from suite.studies.settings import Group, keyed, setting
from suite.studies.study import Study, check_against

if TYPE_CHECKING:
    from suite.report.comparison import Comparison
    from suite.studies.plan import Plan


class ReportSettings(Group):
    """Settings of a report."""

    directory: tuple[str, ...] = setting(
        ..., "directory of the comparison, or those of all its batches", metavar="DIR", min_length=1
    )
    against: str | None = setting(
        None, "method that all others are tested against (default: random, if it is there)", metavar="A"
    )
    out: str | None = setting(None, "where the report goes (default: report/ in the first directory)", metavar="DIR")


class Report(Study[ReportSettings, "Comparison"]):
    """Write leaderboard and plots of a comparison.

    Write leaderboard, tables and plots of a finished comparison.
    """

    Settings = ReportSettings
    positional = ("directory",)

    def run(self, *, quiet: bool = True) -> Comparison:
        """Read the comparison and write its report."""
        from suite.report import write_report
        from suite.studies.compare.run import load_comparison

        with keyed("directory"):
            comparison = load_comparison(*self.settings.directory)
        names = list(dict.fromkeys(entry.run.searcher for entry in comparison.entries))
        write_report(comparison, self.out(), check_against(self.settings.against, names))
        return comparison

    def out(self) -> Path:
        """Where the report goes."""
        return Path(self.settings.out) if self.settings.out else Path(self.settings.directory[0]) / "report"

    def answer(self, result: Comparison, *, as_json: bool) -> int:
        """Print the leaderboard."""
        from rich.console import Console

        from suite.report import leaderboard, leaderboard_table

        if as_json:
            print((self.out() / "leaderboard.json").read_text(encoding="utf-8"))
            return 0
        leaderboard_table(leaderboard(result, self.settings.against or "random")).print(Console())
        print(f"report in {self.out()}; begin with {self.out() / 'index.html'}")
        return 0

    def plan(self) -> Plan:
        """No forward passes at all."""
        from suite.studies.plan import Plan

        return Plan()
