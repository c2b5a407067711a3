"""The verb ``search``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from suite.contract.trial import Metrics, Trial
from suite.options import parse_options
from suite.studies.model import Searcher, keyed, setting
from suite.studies.settings import LoggedExecutor, ProblemSettings, SpendSettings, in_runs
from suite.studies.study import KeptSettings, KeptStudy

if TYPE_CHECKING:
    from suite.run.records import Run
    from suite.studies.plan import Plan


class SearchSettings(KeptSettings):
    """Settings of one search."""

    problem: ProblemSettings = ProblemSettings()
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


class Search(KeptStudy[SearchSettings, "Run"]):
    """Run one searcher.

    Run one searcher on a problem. A directory that holds the run is resumed.
    """

    Settings = SearchSettings

    def default_directory(self) -> Path:
        """Named after problem, budget, searcher and seed."""
        return in_runs(self.problem, self.settings.searcher, self.settings.seed)

    def run(self, *, quiet: bool = True) -> Run:
        """Search, or resume the search."""
        from suite.report.progress import Progress, SearchBars
        from suite.run.registry import make_searcher
        from suite.studies.search.run import search

        settings, spend = self.settings, self.settings.spend
        with keyed("option"):
            options = parse_options(list(settings.option), "searcher")
        with keyed("searcher"):
            searcher = make_searcher(settings.searcher, self.problem, settings.seed, **options)
        limits, resources = spend.limits, settings.executor.logged(self.directory)
        fidelity = spend.fidelity_of(self.problem, settings.problem)
        rungs = spend.ladder(fidelity)
        with Progress(quiet=quiet) as progress:
            watcher = SearchBars(progress, self.problem.objective, [(searcher.name, searcher.seed)], limits)
            return search(
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
                on_start=self.record,
                on_trial=lambda trial: watcher.trial(searcher.name, searcher.seed, trial),
            )

    def failure(self, result: Run) -> str | None:
        """Why no trial succeeded."""
        if result.best is not None:
            return None
        reason = result.trials[0].failure if result.trials else "the searcher proposed nothing"
        return f"no trial succeeded; the first failure: {reason}"

    def to_json(self, result: Run) -> str:
        """The best policy, the front, and what was spent."""
        best, metrics = _best(result)
        front = [(trial, trial.metrics) for trial in result.front if trial.metrics is not None]
        content = {
            "directory": str(self.directory),
            "searcher": result.searcher,
            "seed": result.seed,
            "trials": len(result.trials),
            "evaluations": result.evaluations,
            "failed": sum(trial.failure is not None for trial in result.trials),
            "stopped": result.stopped,
            "forward_passes": result.forward_passes,
            "constant_score": self._constant(result),
            "best": {
                "trial": best.number,
                "search_score": result.score(best),
                "metrics": metrics.to_dict(),
                "policy": best.policy.to_dict(),
            },
            "front": [
                {"trial": trial.number, "search_score": result.score(trial), "bops": found.bops, **found.costs}
                for trial, found in front
            ],
        }
        return json.dumps(content)

    def show(self, result: Run) -> None:
        """Print the best policy and what was spent."""
        from suite.workbench import BenchProblem

        best, _ = _best(result)
        print(
            f"{result.evaluations} evaluations, {result.forward_passes:,} forward passes; stopped by: {result.stopped}; journal "
            f"in {self.directory}"
        )
        rules = [*(limit.cost for limit in self.problem.budget.limits), *result.objective.costs]
        spent = {rule: rule.units(rule.total(self.problem.space, best.policy)) for rule in rules}
        costs = {rule.name: f"{units:,} {rule.unit}" for rule, units in spent.items()}
        print(f"best search score ({result.objective.text}) {result.score(best):.4f} at {', '.join(costs.values())}:")
        if self.problem.objective.pareto:
            print(f"  one of {len(result.front)} policies on the front of score and costs; --json lists them")
        print(f"  {best.policy.to_json()}")
        if (blind := self._constant(result)) is not None and result.score(best) <= blind:
            print(
                f"which is NOT above the {blind:.4f} of a classifier that gives one answer for all images: it means nothing"
            )
        told = "a search score is about search images, on which the winner was chosen"
        if not isinstance(self.problem, BenchProblem):
            print(f"{told}; {self.problem.name} holds no exams")
            return
        print(f"{told}; certify it on held-out images with:")
        given = {"checkpoint": self.settings.problem.checkpoint, "data": self.settings.problem.data}
        again = "".join(f" --{name} {value}" for name, value in given.items() if value)
        print(f"  bitcert examine --run {self.directory}{again}")

    def _constant(self, run: Run) -> float | None:
        best, _ = _best(run)
        return self.problem.constant_score(best.fidelity, best.seed)

    def plan(self) -> Plan:
        """One search."""
        from suite.studies.plan import plan_searches

        settings = self.settings
        return plan_searches(
            self.problem, settings.problem, settings.spend, settings.executor, 1, parallel=settings.parallel
        )


def _best(run: Run) -> tuple[Trial, Metrics]:
    best = run.best
    assert best is not None
    assert best.metrics is not None
    return best, best.metrics
