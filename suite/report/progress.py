"""Progress bars for the command line, on standard error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from suite.contract.objective import Objective
from suite.contract.trial import Trial
from suite.errors import BitcertError
from suite.run.limits import Limits
from suite.run.records import Outcome
from suite.run.watcher import Watcher


@final
class Progress:
    """Named bars, a context manager; does nothing if ``quiet``.

    Bars appear with the first news of any of them, or with :meth:`show`, so that mistakes found before print alone; those
    found before anything is done take the bars away again.

    Example:
        >>> with Progress(quiet=True) as progress:
        ...     progress.add("policies", total=16)
        ...     progress.advance("policies")
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._bars = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[state]}"),
            console=Console(stderr=True),
        )
        self._ids: dict[str, TaskID] = {}

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None = None, *_: object) -> None:
        if self._bars.live.is_started:
            mistaken = kind is not None and issubclass(kind, BitcertError | OSError)
            if mistaken and not any(task.completed for task in self._bars.tasks):
                self._bars.live.transient = True
                self._bars.console.quiet = not self._bars.console.is_terminal  # else it would print an empty line
            self._bars.stop()

    def add(self, name: str, total: float | None = None) -> None:
        """Add a bar: indeterminate without a ``total``, hidden with a total of 0."""
        self._ids[name] = self._bars.add_task(name, total=total, visible=total != 0, state="")

    def show(self) -> None:
        """Show the bars now, before the first update; for work that starts slowly and can no longer fail early."""
        if not self._quiet and not self._bars.live.is_started:
            self._bars.start()

    def advance(self, name: str, amount: float = 1) -> None:
        """Advance a bar by ``amount``; beyond its total, the total grows."""
        self.update(name, self._bars.tasks[self._ids[name]].completed + amount)

    def update(
        self, name: str, completed: float | None = None, total: float | None = None, state: str | None = None
    ) -> None:
        """Set what is done, the total (hidden while it is 0) and the text of a bar; None leaves a value as it is."""
        task = self._bars.tasks[self._ids[name]]
        done, whole = task.completed if completed is None else completed, task.total if total is None else total
        text: dict[str, Any] = {"visible": whole != 0 or done > 0} | ({} if state is None else {"state": state})
        self.show()
        self._bars.update(task.id, completed=done, total=None if whole is None else max(whole, done), **text)

    def finish(self, name: str) -> None:
        """Fill a bar that ended before its total."""
        self._bars.update(self._ids[name], total=max(self._bars.tasks[self._ids[name]].completed, 1))

    def print(self, text: str) -> None:
        """Print a line above the bars."""
        if not self._quiet:
            self._bars.console.print(text, highlight=False, markup=False)


@final
class SearchBars(Watcher):
    """One bar per search, which shows its best score so far, and one for the exams."""

    def __init__(
        self, progress: Progress, objective: Objective, runs: Sequence[tuple[str, int]], limits: Limits
    ) -> None:
        self._progress, self._objective = progress, objective
        self._by_passes = limits.evaluations is None and limits.forward_passes is not None
        self._names = [f"{searcher} {seed}" for searcher, seed in runs]
        self._best: dict[str, float] = {}
        for name in self._names:
            progress.add(name, limits.evaluations or limits.forward_passes)
        progress.show()

    def trial(self, searcher: str, seed: int, trial: Trial) -> None:
        """Advance the search's bar."""
        name = f"{searcher} {seed}"
        if trial.metrics is not None:
            score = self._objective.score(trial.metrics)
            self._best[name] = max(score, self._best.get(name, score))
            self._progress.update(name, state=f"search best {self._best[name]:.4f}")
        if trial.failure is not None:
            self._progress.print(f"trial {trial.number} of {name} failed: {trial.failure}")
        self._progress.advance(name, trial.spend if self._by_passes else int(trial.repeat_of is None))

    def exams(self, count: int) -> None:
        """Fill the bars of the searches, begin one for the exams."""
        for name in self._names:
            self._progress.finish(name)
        if count:
            self._progress.add("exams", count)

    def exam(self, outcome: Outcome) -> None:
        """Advance the bar of the exams."""
        self._progress.advance("exams")
