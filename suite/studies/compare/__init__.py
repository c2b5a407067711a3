"""The verb ``compare``, and what it shares with ``ablate``: searches under equal spend whose winners are certified."""

from __future__ import annotations

import json
from abc import abstractmethod
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from suite import plugins
from suite.studies.model import PostStepNames, Searchers, Seeds, keyed, setting
from suite.studies.settings import HeldOutSettings, ProblemSettings, RayByDefault, SpendSettings, in_runs
from suite.studies.study import ReportedSettings, ReportedStudy, check_against

if TYPE_CHECKING:
    from suite.report.comparison import Comparison
    from suite.report.table import Table
    from suite.studies.compare.run import Batch, ComparisonSettings
    from suite.studies.plan import Plan


class SearchesSettings(ReportedSettings):
    """Settings of many searches whose winners are certified."""

    problem: ProblemSettings = ProblemSettings()
    seeds: Seeds = setting((0, 1), "seeds of every searcher", metavar="A,B,...")
    same_network: bool = setting(
        False,
        "search one network for all seeds, with the same calibration and search images (default: each seed has its own, as far as "
        "networks are included)",
        expert=True,
    )
    batch: str | None = setting(
        None,
        "run only the K-th of N parts of the searches, on machines that share no cluster; give the directories of all parts to "
        "'bitcert report'",
        metavar="K/N",
        expert=True,
    )
    controls: PostStepNames = setting(
        (),
        "other post-steps after each of which every winner is certified, too, such as plain,recalibrate",
        metavar="A,B,...",
    )
    spend: SpendSettings = SpendSettings()
    exam: HeldOutSettings = HeldOutSettings()
    executor: RayByDefault = RayByDefault()


class CompareSettings(SearchesSettings):
    """Settings of a comparison."""

    searchers: Searchers | None = setting(
        None,
        "methods (default: all), see 'bitcert list'; options follow a name, as in arq:episodes=64:relabel=true",
        metavar="A,B,...",
    )
    against: str | None = setting(
        None, "method that all others are tested against (default: random, if it is there)", metavar="A"
    )


SearchesT = TypeVar("SearchesT", bound=SearchesSettings)


class Searches(ReportedStudy[SearchesT, "Comparison | None"]):
    """Base of verbs that run many searches and certify their winners; the result is None for a batch of them."""

    needs = "images to hold an exam on"
    json = "leaderboard.json"

    @abstractmethod
    def searchers(self) -> tuple[str, ...]:
        """Names of the searchers, options included."""

    @abstractmethod
    def against(self) -> str | None:
        """What all others are tested against, if that was asked for."""

    @abstractmethod
    def split(self) -> str:
        """Images that judge the winners."""

    @cached_property
    def batch(self) -> Batch:
        """The part of the searches that is run."""
        from suite.studies.compare.run import Batch

        with keyed("batch"):
            return Batch() if self.settings.batch is None else Batch.parse(self.settings.batch)

    @cached_property
    def comparison(self) -> ComparisonSettings:
        """What the functions take; mistakes come out here, before anything is shown or written."""
        from suite.run.exam import check_exam
        from suite.run.registry import make_searcher
        from suite.studies.compare.run import ComparisonSettings

        settings, problem, names = self.settings, self.problem, self.searchers()
        check_against(self.against(), names)
        for position, name in enumerate(names):
            with keyed("searchers", position):
                make_searcher(name, problem)
        fidelity = settings.spend.fidelity_of(problem, settings.problem)
        with keyed("exam"):
            exam = settings.exam.build(problem, self.split())
            check_exam(problem, exam)
        return ComparisonSettings(
            searchers=names,
            seeds=settings.seeds,
            limits=settings.spend.limits,
            fidelity=fidelity,
            post_step=settings.exam.step(),
            exam=exam,
            controls=settings.controls,
            finalists=settings.spend.finalists,
            rungs=settings.spend.ladder(fidelity),
            same_network=settings.same_network,
        )

    def run(self, *, quiet: bool = True) -> Comparison | None:
        """Search, certify the winners, and write the report."""
        from suite.report import write_report
        from suite.report.progress import Progress, SearchBars
        from suite.studies.compare.run import load_comparison, run_batch

        wanted, resources = self.comparison, self.settings.executor.logged(self.directory)
        with Progress(quiet=quiet) as progress:
            run_batch(
                self.problem,
                wanted,
                self.directory,
                self.batch,
                executor=self.settings.executor.name,
                retries=self.settings.spend.retries,
                resources=resources,
                on_start=self.record,
                watcher=SearchBars(progress, self.problem.objective, self.batch.of(wanted), wanted.limits),
            )
        if self.batch.count > 1:
            return None
        comparison = load_comparison(self.directory)
        write_report(comparison, self.report, check_against(self.against(), wanted.searchers))
        return comparison

    def to_json(self, result: Comparison | None) -> str:
        """The leaderboard with its rows, or of a batch how many searches it has."""
        if result is not None:
            return super().to_json(result)
        searches = len(self.batch.of(self.comparison))
        return json.dumps({"directory": str(self.directory), "batch": self.settings.batch, "searches": searches})

    def show(self, result: Comparison | None) -> None:
        """Print the leaderboard, or of a batch how many searches it has."""
        if result is not None:
            super().show(result)
        else:
            print(f"batch {self.settings.batch} is done: {len(self.batch.of(self.comparison))} searches")

    def table(self, result: Comparison | None) -> Table:
        """The leaderboard."""
        from suite.report import leaderboard, leaderboard_table, ranking_reliability

        assert result is not None
        return leaderboard_table(leaderboard(result, self.against() or "random"), ranking_reliability(result))

    def plan(self) -> Plan:
        """All searches, and an exam of every winner and of the float network, or of every seed's where seeds have their own."""
        from suite.studies.plan import add_exams, plan_searches

        settings = self.settings
        seeds = [seed for seed in settings.seeds for _ in self.searchers()][self.batch.number - 1 :: self.batch.count]
        planned = plan_searches(self.problem, settings.problem, settings.spend, settings.executor, len(seeds))
        finetuned = settings.spend.fidelity_of(self.problem, settings.problem, read=False).finetune_steps
        shared = settings.same_network or self.split() != "exam"
        return add_exams(
            planned,
            self.problem,
            settings.exam,
            self.split(),
            [settings.exam.step()] * len(seeds),
            references=1 if shared else len(set(seeds)),
            finetune_steps=finetuned,
        )


class Compare(Searches[CompareSettings]):
    """Run many searchers, certify their winners, report.

    Run searchers under equal spend, certify their winners on held-out images, and write leaderboard and plots. A directory
    that holds the comparison is resumed, also with further searchers and seeds or higher limits.
    """

    Settings = CompareSettings

    def searchers(self) -> tuple[str, ...]:
        """Those asked for, or all that can take the objective."""
        if self.settings.searchers is not None:
            return self.settings.searchers
        from suite.run.registry import standalone_names

        names = standalone_names()
        if self.problem.objective.pareto:
            names = tuple(name for name in names if plugins.SEARCHERS.load(name).supports_pareto)
        return names

    def against(self) -> str | None:
        """As asked for."""
        return self.settings.against

    def split(self) -> str:
        """Exam images, which no search has seen."""
        return "exam"

    def default_directory(self) -> Path:
        """Named after problem and budget."""
        return in_runs(self.problem)
