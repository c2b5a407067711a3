"""Progress bars for the command line, on standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from suite.contract.problem import Problem
from suite.contract.trial import Trial
from suite.run.limits import Limits
from suite.run.records import Outcome
from suite.studies.compare.run import Watcher


class TrialBars(Watcher):
    """One bar a search, showing its best score so far, and one for the exams."""

    def __init__(self, problem: Problem, progress: Progress, runs: Sequence[tuple[str, int]], limits: Limits) -> None:
        self._objective = problem.objective
        self._progress = progress
        total = limits.evaluations or limits.forward_passes
        self._by_passes = limits.evaluations is None and limits.forward_passes is not None
        self._bars: dict[tuple[str, int], TaskID] = {
            (searcher, seed): progress.add_task(f"{searcher} {seed}", total=total, best="") for searcher, seed in runs
        }
        self._best: dict[tuple[str, int], float] = {}
        self._exams: TaskID | None = None

    def trial(self, searcher: str, seed: int, trial: Trial) -> None:
        """Advance the search's bar."""
        key = searcher, seed
        if trial.metrics is not None:
            score = self._objective.score(trial.metrics)
            self._best[key] = max(score, self._best.get(key, score))
        best = f"search best {self._best[key]:.4f}" if key in self._best else ""
        if trial.failure is not None:
            self._progress.console.print(
                f"trial {trial.number} of {searcher} {seed} failed: {trial.failure}", highlight=False
            )
        bar = self._bars[key]
        self._progress.update(bar, advance=trial.spend if self._by_passes else 1, best=best)
        task = self._progress.tasks[bar]
        if task.total is not None and task.completed > task.total:  # finalists, measured again after the limit
            self._progress.update(bar, total=task.completed)

    def exams(self, count: int) -> None:
        """Searches are over: fill their bars, begin one for the exams."""
        for bar in self._bars.values():
            self._progress.update(bar, total=max(self._progress.tasks[bar].completed, 1))
        if count:
            self._exams = self._progress.add_task("exams", total=count, best="")

    def exam(self, outcome: Outcome) -> None:
        """Advance the bar of the exams."""
        if self._exams is not None:
            self._progress.update(self._exams, advance=1)


@contextmanager
def trials_shown(
    problem: Problem, runs: Sequence[tuple[str, int]], limits: Limits, *, quiet: bool
) -> Iterator[Watcher]:
    """Show searches as they go on; nothing if ``quiet``."""
    if quiet:
        yield Watcher()
        return
    with _progress(TextColumn("{task.fields[best]}"), at_once=True) as progress:
        yield TrialBars(problem, progress, runs, limits)


@contextmanager
def exam_shown(
    passes: int, steps: int, *, quiet: bool
) -> Iterator[tuple[Callable[[int], None] | None, Callable[[int], None] | None]]:
    """Show an exam's forward passes, after the optimizer steps of its post-step if there are any; nothing if ``quiet``."""
    if quiet:
        yield None, None
        return
    with _progress() as progress:
        trained = progress.add_task("post-step", total=steps, visible=steps > 0)
        bar = progress.add_task("exam", total=passes)
        yield lambda count: progress.update(bar, advance=count), lambda count: progress.update(trained, completed=count)


@contextmanager
def sensitivity_shown(
    policies: int, methods: int, *, quiet: bool
) -> Iterator[tuple[Callable[[Trial], None] | None, Callable[[str], None] | None]]:
    """Show the policies measured, then the methods that probe; nothing if ``quiet``."""
    if quiet:
        yield None, None
        return
    with _progress(TextColumn("{task.fields[state]}")) as progress:
        trials = progress.add_task("policies", total=policies, state="")
        probed = progress.add_task("methods", total=methods, state="")
        begun = 0

        def begin(method: str) -> None:
            nonlocal begun
            progress.update(probed, completed=begun, state=f"probing for {method}")
            begun += 1

        yield lambda _: progress.update(trials, advance=1), begin
        progress.update(probed, completed=begun, state="")


@contextmanager
def plane_shown(
    steps: int, size: int, *, quiet: bool
) -> Iterator[tuple[Callable[[int], None] | None, Callable[[int], None] | None]]:
    """Show the optimizer steps, then the points of a loss plane; nothing if ``quiet``."""
    if quiet:
        yield None, None
        return
    with _progress() as progress:
        trained = progress.add_task("finetuning", total=steps)
        measured = progress.add_task("points", total=None)

        def point(count: int) -> None:
            progress.update(trained, completed=steps)
            progress.update(measured, completed=count, total=size * size + 5)

        yield lambda count: progress.update(trained, completed=count), point


@contextmanager
def exams_shown(*, quiet: bool) -> Iterator[tuple[Callable[[int], None] | None, Callable[[Outcome], None] | None]]:
    """Show exams as they are held, once it is known how many; nothing if ``quiet``."""
    if quiet:
        yield None, None
        return
    with _progress() as progress:
        bar = progress.add_task("exams", total=None)
        yield lambda count: progress.update(bar, total=count), lambda _: progress.update(bar, advance=1)


@contextmanager
def epochs_shown(epochs: int, *, quiet: bool) -> Iterator[Callable[[int, int, float, float], None] | None]:
    """Show the epochs of a training with loss and accuracy; nothing if ``quiet``."""
    if quiet:
        yield None
        return
    with _progress(TextColumn("{task.fields[state]}"), at_once=True) as progress:
        bar = progress.add_task("training", total=epochs, state="")
        yield lambda epoch, _, loss, accuracy: progress.update(
            bar, completed=epoch, state=f"loss {loss:.3f}  accuracy under noise {accuracy:.3f}"
        )


class _Bars(Progress):
    """Bars that show themselves at the first news, so that a mistake found before it comes out alone."""

    def update(self, task_id: TaskID, **news: Any) -> None:
        """Change a bar."""
        if not self.live.is_started:
            self.start()
        super().update(task_id, **news)


@contextmanager
def _progress(*more: TextColumn, at_once: bool = False) -> Iterator[Progress]:
    """Bars for a command; ``at_once`` where the first news takes long and mistakes are found before."""
    bars = _Bars(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        *more,
        console=Console(stderr=True),
    )
    if at_once:
        bars.start()
    try:
        yield bars
    finally:
        if bars.live.is_started:
            bars.stop()
