"""A watcher that writes the settings of a comparison at the first news, then passes the news on."""

from __future__ import annotations

from collections.abc import Callable

from suite.contract.trial import Trial
from suite.run.records import Outcome
from suite.run.watcher import Watcher


class RecordingWatcher(Watcher):
    """Calls ``write`` before anything else.

    Args:
        inner: Hears everything, too.
        write: Writes the settings.
    """

    def __init__(self, inner: Watcher, write: Callable[[], None]) -> None:
        self._inner, self._write = inner, write

    def trial(self, searcher: str, seed: int, trial: Trial) -> None:
        """A trial has finished."""
        self._write()
        self._inner.trial(searcher, seed, trial)

    def exams(self, count: int) -> None:
        """That many exams follow."""
        self._write()
        self._inner.exams(count)

    def exam(self, outcome: Outcome) -> None:
        """An exam has finished."""
        self._inner.exam(outcome)
