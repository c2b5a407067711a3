"""Callbacks on the progress of a comparison."""

from __future__ import annotations

from suite.contract.trial import Trial
from suite.run.records import Outcome


class Watcher:
    """Is told how a comparison progresses; subclasses override what they show."""

    def trial(self, searcher: str, seed: int, trial: Trial) -> None:
        """A trial has finished, or was found in the journal."""

    def exams(self, count: int) -> None:
        """That many exams are about to run; those on file are not counted."""

    def exam(self, outcome: Outcome) -> None:
        """An exam has finished."""
