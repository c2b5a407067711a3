"""What hears how a comparison goes on."""

from __future__ import annotations

from suite.contract.trial import Trial
from suite.run.records import Outcome


class Watcher:
    """Hears how a comparison goes on; a subclass shows it. Every method does nothing here."""

    def trial(self, searcher: str, seed: int, trial: Trial) -> None:
        """A trial has finished, or was found in the journal."""

    def exams(self, count: int) -> None:
        """That many exams are to be held; those on file are left out."""

    def exam(self, outcome: Outcome) -> None:
        """An exam has finished."""
