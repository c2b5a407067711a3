"""Many searches on recorded tables, judged by the true score of every policy."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from suite.contract.space import Policy
from suite.errors import BitcertError
from suite.execute.executor import Resources, make_executor
from suite.files import read_sealed, write_sealed
from suite.problems.tabular import TabularProblem
from suite.report.anytime import Trajectory, trace_incumbent
from suite.report.curves import Clock
from suite.report.fronts import front_of, relative_hypervolume
from suite.run.folder import SettingsFile
from suite.run.registry import make_searcher
from suite.studies.search.run import search
from suite.studies.settings import slug

CONTENTS = SettingsFile("replay.json", "replay")
CLOCKS: tuple[Clock, ...] = get_args(Clock)


@dataclass(frozen=True, eq=False)
class Task:
    """A table at a budget.

    Attributes:
        name: In tables and figures.
        problem: Replays it.
    """

    name: str
    problem: TabularProblem

    @cached_property
    def truth(self) -> Mapping[Policy, float]:
        """The score of every feasible policy; raises BitcertError if the table lacks some of the space."""
        if not self.problem.truth:
            raise BitcertError(f"{self.problem.file} does not hold every policy, so its optimum is unknown")
        return self.problem.truth

    @property
    def optimum(self) -> float:
        """The best true score within the budget."""
        return max(self.truth.values())

    @property
    def reference(self) -> float:
        """The mean true score of all policies within the budget."""
        return float(np.mean(list(self.truth.values())))

    @cached_property
    def points(self) -> Front:
        """Score and BOPs of every feasible policy, shape ``(policies, 2)``."""
        return np.array([(score, self.problem.bops(policy)) for policy, score in self.truth.items()])

    def hypervolume(self, front: Front) -> float:
        """That of a front of true scores, as a share of the true front's, above the worst policy within the budget."""
        return relative_hypervolume(
            front, self.points, (float(self.points[:, 0].min()), float(self.points[:, 1].max()) + 1)
        )


Front = NDArray[np.float64]
"""Scores and BOPs, shape ``(points, 2)``."""
Courses = Mapping[int, Mapping[Clock, Trajectory]]
"""By seed and clock: the true score of a search's incumbent by spend."""


@dataclass(frozen=True, eq=False)
class Replay:
    """What all searches found.

    Attributes:
        tasks: What was searched.
        courses: By searcher and task.
        evaluations: Of every search at most.
        fronts: True scores and BOPs of what every search holds best, by searcher and task, one per seed; empty unless BOPs are a
            further objective.
    """

    tasks: Sequence[Task]
    courses: Mapping[str, Mapping[str, Courses]]
    evaluations: int
    fronts: Mapping[str, Mapping[str, Sequence[Front]]]

    @property
    def seeds(self) -> int:
        """Searches of every searcher on every task."""
        return len(next(iter(next(iter(self.courses.values())).values())))

    def truths(
        self, searcher: str, task: Task, marks: Sequence[float], by: Clock = "evaluations"
    ) -> np.ndarray[Any, Any]:
        """True scores of the incumbents, shape ``(seeds, marks)``; the reference before anything is measured."""
        found = [course[by].at(marks) for course in self.courses[searcher][task.name].values()]
        return np.where(np.isnan(found), task.reference, found)


def replay(
    tasks: Sequence[Task],
    searchers: Sequence[str],
    *,
    seeds: int,
    evaluations: int,
    directory: Path,
    executor: str = "inline",
    resources: Resources | None = None,
    on_start: Callable[[int], object] = lambda _: None,
    on_searcher: Callable[[], None] = lambda: None,
) -> Replay:
    """Search with every searcher and seed on every task; a directory with the same searches is resumed.

    Args:
        tasks: With different names.
        searchers: Names with options.
        seeds: Searches of each, seeds 0 to ``seeds - 1``.
        evaluations: Of each at most.
        directory: Where the courses go, one file for each searcher and task.
        executor: ``"inline"`` or ``"ray"``; equal results.
        resources: For the Ray executor.
        on_start: Called with the number of searchers and tasks that are not known yet.
        on_searcher: Called after each.

    Raises:
        BitcertError: If the directory holds something else, a method fails, or a table's optimum is unknown.
    """
    settings = {"seeds": seeds, "evaluations": evaluations}
    provenance = {task.name: task.problem.provenance() for task in tasks}
    CONTENTS.claim(directory, {"problem": provenance, "settings": settings})
    for task in tasks:
        _ = task.truth
        for name in searchers:
            make_searcher(name, task.problem.fresh(), 0)
    cells = [(name, task) for name in searchers for task in tasks]
    waiting = [(name, task) for name, task in cells if not _file(directory, name, task).exists()]
    on_start(len(waiting))
    shared = [task.problem for task in tasks], seeds, evaluations
    inputs = [(name, list(tasks).index(task)) for name, task in waiting]
    for position, found in make_executor(executor, resources).map(_search_all, shared, inputs):
        write_sealed(_file(directory, *waiting[position]), found)
        on_searcher()
    courses: dict[str, dict[str, Courses]] = {}
    fronts: dict[str, dict[str, Sequence[Front]]] = {}
    for name, task in cells:
        content = read_sealed(_file(directory, name, task), "searches of a replay")
        if task.problem.objective.pareto:
            fronts.setdefault(name, {})[task.name] = [np.array(course["front"]) for course in content.values()]
        courses.setdefault(name, {})[task.name] = {
            int(seed): {clock: _trajectory(course[clock]) for clock in CLOCKS} for seed, course in content.items()
        }
    return Replay(tasks, courses, evaluations, fronts)


def _search_all(shared: tuple[Sequence[TabularProblem], int, int], cell: tuple[str, int]) -> dict[str, dict[str, Any]]:
    problems, seeds, evaluations = shared
    name, number = cell
    problem, found = problems[number], {}
    for seed in range(seeds):
        fresh = problem.fresh()
        with tempfile.TemporaryDirectory(prefix="bitcert-") as folder:
            run = search(
                fresh,
                make_searcher(name, fresh, seed),
                evaluations=evaluations,
                directory=Path(folder) / "run",
                finalists=0,
            )
        course: dict[str, Any] = {clock: _content(trace_incumbent(run, problem.truth, clock)) for clock in CLOCKS}
        if problem.objective.pareto:
            course["front"] = front_of(run, problem.truth).tolist()
        found[str(seed)] = course
    return found


def _content(course: Trajectory) -> dict[str, Any]:
    return {"spend": course.spend.tolist(), "truth": course.truth.tolist(), "end": course.end}


def _trajectory(content: Mapping[str, Any]) -> Trajectory:
    return Trajectory(np.array(content["spend"]), np.array(content["truth"]), content["end"])


def _file(directory: Path, searcher: str, task: Task) -> Path:
    return directory / "courses" / f"{slug(searcher)}-at-{task.name}.json"
