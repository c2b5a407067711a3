"""The verb ``search``."""

from __future__ import annotations

import json
import sys
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from suite import plugins
from suite.studies.settings import (
    Group,
    LoggedExecutor,
    SearchedProblem,
    Searcher,
    SpendSettings,
    in_runs,
    keyed,
    setting,
)
from suite.studies.study import Recorder, Study

if TYPE_CHECKING:
    from suite.contract.problem import Problem
    from suite.contract.trial import Metrics, Trial
    from suite.run.records import Run
    from suite.studies.plan import Plan


class SearchSettings(Group):
    """Settings of one search."""

    problem: SearchedProblem = SearchedProblem()
    searcher: Searcher = setting(..., "method, with options after its name if any; see 'bitcert list'", metavar="A")
    option: tuple[str, ...] = setting((), "option of the searcher; may be repeated", metavar="NAME=VALUE", repeat=True)
    seed: int = setting(0, "seed of the searcher")
    parallel: int = setting(
        1, "most evaluations of this search under way at once; above 1 the order of results matters", expert=True, ge=1
    )
    directory: str | None = setting(
        None, "where the journal goes (default: runs/PROBLEM-BUDGET-SEARCHER-SEED)", metavar="DIR"
    )
    spend: SpendSettings = SpendSettings()
    executor: LoggedExecutor = LoggedExecutor()


class Search(Study[SearchSettings, "Run"]):
    """Run one searcher.

    Run one searcher on a problem. A directory that holds the run is resumed.
    """

    Settings = SearchSettings

    @cached_property
    def problem(self) -> Problem:
        """What is searched."""
        return self.settings.problem.load()

    @cached_property
    def directory(self) -> Path:
        """Where the journal goes."""
        settings = self.settings
        given = settings.directory
        return in_runs(self.problem, settings.searcher, settings.seed) if given is None else Path(given)

    def run(self, *, quiet: bool = True) -> Run:
        """Search, or resume the search."""
        from suite.report.progress import Progress, SearchBars
        from suite.run.registry import make_searcher
        from suite.studies.search.run import search

        settings, spend = self.settings, self.settings.spend
        with keyed("option"):
            options = plugins.parse_options(list(settings.option), "searcher")
        with keyed("searcher"):
            searcher = make_searcher(settings.searcher, self.problem, settings.seed, **options)
        limits, resources = spend.limits, settings.executor.logged(self.directory)
        fidelity = spend.fidelity_of(self.problem, settings.problem)
        rungs = spend.ladder(fidelity)
        recorder = Recorder("search", settings, self.directory)
        with Progress(quiet=quiet) as progress:
            watcher = SearchBars(progress, self.problem.objective, [(searcher.name, searcher.seed)], limits)
            run = search(
                self.problem,
                searcher,
                evaluations=limits.evaluations,
                forward_passes=limits.forward_passes,
                seconds=limits.seconds,
                directory=self.directory,
                executor=settings.executor.name,
                fidelity=fidelity,
                parallel=settings.parallel,
                finalists=spend.finalists,
                retries=spend.retries,
                rungs=rungs,
                resources=resources,
                on_trial=recorder.before(lambda trial: watcher.trial(searcher.name, searcher.seed, trial)),
            )
        recorder.write()
        return run

    def answer(self, result: Run, *, as_json: bool) -> int:
        """Print the best policy and what was spent."""
        run, best = result, result.best
        if best is None or best.metrics is None:
            reason = run.trials[0].failure if run.trials else "the searcher proposed nothing"
            print(f"bitcert: no trial succeeded; the first failure: {reason}", file=sys.stderr)
            return 1
        if as_json:
            print(json.dumps(_record(run, best, best.metrics, self.directory)))
            return 0
        print(
            f"{len(run.trials)} trials, {run.forward_passes:,} forward passes; stopped by: {run.stopped}; journal in "
            f"{self.directory}"
        )
        print(f"best search score ({run.objective.text}) {run.score(best):.4f} at {best.metrics.bops:,} BOPs:")
        print(f"  {best.policy.to_json()}")
        print("a search score is an estimate on search images; certify the winner on held-out images with:")
        given = {"checkpoint": self.settings.problem.checkpoint, "data": self.settings.problem.data}
        again = "".join(f" --{name} {value}" for name, value in given.items() if value)
        print(f"  bitcert examine --run {self.directory}{again}")
        return 0

    def plan(self) -> Plan:
        """One search."""
        from suite.studies.plan import plan_searches

        settings = self.settings
        return plan_searches(
            self.problem, settings.problem, settings.spend, settings.executor, 1, parallel=settings.parallel
        )


def _record(run: Run, best: Trial, metrics: Metrics, directory: Path) -> dict[str, Any]:
    return {
        "directory": str(directory),
        "searcher": run.searcher,
        "seed": run.seed,
        "trials": len(run.trials),
        "failed": sum(trial.failure is not None for trial in run.trials),
        "stopped": run.stopped,
        "forward_passes": run.forward_passes,
        "best": {
            "trial": best.number,
            "search_score": run.score(best),
            "metrics": metrics.to_dict(),
            "policy": best.policy.to_dict(),
        },
        "front": [
            {"trial": trial.number, "search_score": run.score(trial), "bops": trial.metrics.bops}
            for trial in run.front
            if trial.metrics is not None
        ],
    }
