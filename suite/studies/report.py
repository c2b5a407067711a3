"""The verb ``report``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from suite.studies.model import Group, keyed, setting
from suite.studies.study import Study, check_against, print_table

if TYPE_CHECKING:
    from suite.report.comparison import Comparison


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
        write_report(comparison, self.out, check_against(self.settings.against, names))
        return comparison

    @property
    def out(self) -> Path:
        """Where the report goes."""
        return Path(self.settings.out) if self.settings.out else Path(self.settings.directory[0]) / "report"

    def to_json(self, result: Comparison) -> str:
        """The leaderboard with its rows."""
        return (self.out / "leaderboard.json").read_text(encoding="utf-8")

    def show(self, result: Comparison) -> None:
        """Print the leaderboard."""
        from suite.report import leaderboard, leaderboard_table, ranking_reliability

        frame = leaderboard(result, self.settings.against or "random")
        print_table(leaderboard_table(frame, ranking_reliability(result)))
        print(f"report in {self.out}; begin with {self.out / 'index.html'}")
