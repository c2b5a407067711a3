"""The verb ``benchmark``."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from suite.studies.compare import Compare, CompareSettings
from suite.studies.export import Export, ExportSettings
from suite.studies.model import BudgetTexts, Group, Searchers, Seeds, SettingError, setting
from suite.studies.replay import ReplaySettings, ReplayStudy
from suite.studies.settings import HeldOutSettings, ProblemSettings, RayByDefault, SpendSettings
from suite.studies.study import Study, print_table

if TYPE_CHECKING:
    from suite.run.records import Run
    from suite.studies.benchmark.findings import Benchmark
    from suite.studies.plan import Plan

_METHODS = (
    "random,random-filled,uniform,cheapest,tpe,evolution,nsga2,amq,hawq-v1,hawq-v2,hawq-v3,limpq,delta-loss,output-fisher,fit,clado,"
    "sensitivity-greedy,sensitivity-ilp,certified-ilp"
)


class BenchmarkSettings(Group):
    """Settings of a benchmark."""

    table: str = setting("digits-table", "table on which all methods are judged, as 'bitcert replay' takes it")
    budgets: BudgetTexts = setting(("w2a2", "w2.5a2.5", "w3a3"), "budgets of the table", metavar="A,B,...")
    searchers: Searchers = setting(tuple(_METHODS.split(",")), "methods to judge on the table", metavar="A,B,...")
    against: str = setting("random-filled", "the method that all others are tested against")
    table_seeds: int = setting(30, "searches of each method on the table, at each budget", ge=2)
    table_evaluations: int = setting(32, "most evaluations of each of them", ge=1)
    best: int = setting(4, "how many of the best are run for real", ge=1)
    trivial: Searchers = setting(
        ("random", "random-filled", "uniform", "cheapest"),
        "methods that are run for real in any case",
        metavar="A,B,...",
    )
    problem: ProblemSettings = ProblemSettings()
    seeds: Seeds = setting((0, 1), "seeds of every searcher that is run for real", metavar="A,B,...")
    spend: SpendSettings = SpendSettings()
    exam: HeldOutSettings = HeldOutSettings()
    executor: RayByDefault = RayByDefault()
    directory: str = setting("runs/benchmark", "where everything goes", metavar="DIR")


class BenchmarkStudy(Study[BenchmarkSettings, "Benchmark"]):
    """Judge all methods on a table, run the best of them for real, export the winner, and say what was found.

    Methods search a table whose optimum is known, with many seeds and within seconds. The best of them and the trivial ones then
    search a network; their winners are finetuned and certified on images that no search has seen. What the best method of the
    table found is exported as an integer network, certified as the file it is. A page has all tables and figures, and opens with
    findings. A directory that holds the benchmark is resumed.
    """

    Settings = BenchmarkSettings
    checked = True

    @cached_property
    def directory(self) -> Path:
        """Where everything goes."""
        return Path(self.settings.directory)

    @cached_property
    def replay(self) -> ReplayStudy:
        """All methods on the table."""
        settings = self.settings
        if settings.against not in settings.searchers:
            raise SettingError(("against",), f"{settings.against} is not among the methods that are judged")
        return ReplayStudy(
            ReplaySettings(
                tables=(settings.table,),
                budgets=settings.budgets,
                searchers=settings.searchers,
                against=settings.against,
                seeds=settings.table_seeds,
                evaluations=settings.table_evaluations,
                executor=settings.executor,
                directory=str(self.directory / "table"),
            )
        )

    def comparison(self, best: tuple[str, ...]) -> Compare:
        """The best methods and the trivial ones on the problem itself."""
        settings = self.settings
        return Compare(
            CompareSettings(
                problem=settings.problem,
                searchers=tuple(dict.fromkeys((*settings.trivial, *best))),
                against=settings.against if settings.against in settings.trivial else None,
                seeds=settings.seeds,
                spend=settings.spend,
                exam=settings.exam,
                executor=settings.executor,
                directory=str(self.directory / "real"),
            )
        )

    def run(self, *, quiet: bool = True) -> Benchmark:
        """Judge, run for real, export, and write the page."""
        from suite.studies.benchmark.findings import Benchmark, choose_best, choose_winner, write_benchmark

        settings = self.settings
        self.comparison(settings.searchers[:1]).comparison  # noqa: B018 (mistakes come out before anything runs)
        judged = self.replay.run(quiet=quiet)
        best = choose_best(judged, settings.trivial, settings.best)
        compared = self.comparison(best).run(quiet=quiet)
        assert compared is not None  # only batches have no comparison
        winner = choose_winner(compared, best[0])
        found = Benchmark(judged, compared, winner, self._export(winner, quiet))
        write_benchmark(found, self.directory)
        return found

    def _export(self, winner: Run, quiet: bool) -> Path:
        """What a search found as an integer network, made once."""
        from suite.run.deployed import read_deployed
        from suite.studies.compare.run import search_folder

        assert winner.best is not None
        path, replicate = self.directory / "winner.onnx", winner.provenance.get("replicate")
        if path.exists():
            there = read_deployed(path)[1]
            if (there["policy"], there["problem"].get("replicate")) == (winner.best.policy.to_dict(), replicate):
                return path
        source = search_folder(self.directory / "real", winner.searcher, winner.seed)
        settings = ExportSettings(source=str(source), out=str(path), certified=True, exam=self.settings.exam)
        Export(settings).run(quiet=quiet)
        return path

    def to_json(self, result: Benchmark) -> str:
        """The findings with the numbers they are made from."""
        return (self.directory / "findings.json").read_text(encoding="utf-8")

    def show(self, result: Benchmark) -> None:
        """Print the tables, the findings, and where the page is."""
        from suite.report import leaderboard, leaderboard_table, ranking_reliability
        from suite.studies.benchmark.findings import findings

        self.replay.show(result.judged)
        compared = result.compared
        print_table(leaderboard_table(leaderboard(compared, result.real_against), ranking_reliability(compared)))
        for number, sentence in enumerate(findings(result), 1):
            print(f"{number}. {sentence}")
        print(f"page in {self.directory / 'index.html'}, model in {result.model}")

    def plan(self) -> Plan:
        """The real searches at most, with as many methods as will be run; the table costs no passes."""
        return self.comparison(self.settings.searchers[-self.settings.best :]).plan()
