"""The verb ``replay``."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from suite.errors import unknown_name
from suite.studies.model import BudgetTexts, Group, Integers, ProtocolName, Searchers, SettingError, keyed, setting
from suite.studies.settings import RayByDefault, slug
from suite.studies.study import Study, print_table

if TYPE_CHECKING:
    from suite.studies.replay.judge import Judged
    from suite.studies.replay.run import Task


class ReplaySettings(Group):
    """Settings of a replay."""

    tables: tuple[str, ...] = setting(
        ...,
        "tables: files of 'bitcert build-table', digits-table, digits-table:sigma=0.5, surrogate:file=FILE; may be repeated",
        metavar="FILE",
        repeat=True,
    )
    budgets: BudgetTexts = setting(..., "budgets, at each of which every table is searched", metavar="A,B,...")
    protocol: ProtocolName | None = setting(None, "one that the tables hold (default: their first)")
    objective: str = setting("acr", "acr, clean, or certified@0.25,0.5; with +bops, fewer BOPs are a further objective")
    searchers: Searchers = setting(..., "methods, options after a colon", metavar="A,B,...")
    against: str = setting("random-filled", "the method that all others are tested against")
    seeds: int = setting(30, "searches of each method on each task", ge=1)
    evaluations: int = setting(200, "most evaluations of a search", ge=1)
    marks: Integers = setting(
        (), "evaluations after which regret is told (default: a third, and all)", metavar="A,B,..."
    )
    orders: tuple[str, ...] = setting(
        (),
        "reports with whose order of the methods this one is compared: replay.json or leaderboard.json; may be repeated",
        metavar="FILE",
        repeat=True,
    )
    executor: RayByDefault = RayByDefault()
    directory: str = setting("runs/replay", "where everything goes", metavar="DIR")
    report: str | None = setting(None, "where the report goes (default: DIRECTORY/report)", metavar="DIR")


class ReplayStudy(Study[ReplaySettings, "Judged"]):
    """Compare methods on recorded tables: true regret, many seeds, in seconds.

    Search tables whose every policy was measured before, at every budget and with many seeds, and judge what each search holds
    best by its true score: regret to the known optimum, ranks, verdicts. A directory that holds the replay is resumed.
    """

    Settings = ReplaySettings

    @cached_property
    def tasks(self) -> list[Task]:
        """Every table at every budget."""
        from suite.problems.tabular import load_table
        from suite.studies.replay.run import Task

        settings, found = self.settings, []
        for file in settings.tables:
            for budget in settings.budgets:
                with keyed("tables"):
                    problem = load_table(file, budget=budget, protocol=settings.protocol, objective=settings.objective)
                stem = f"{problem.name}-{problem.file.stem}-" if len(settings.tables) > 1 else ""
                found.append(Task(slug(f"{stem}{budget}"), problem))
        if len({task.name for task in found}) < len(found):
            raise SettingError(("budgets",), "tables and budgets must differ")
        return found

    @property
    def marks(self) -> list[int]:
        """Evaluations after which regret is told, ascending; the last are all."""
        most, given = self.settings.evaluations, self.settings.marks or (max(1, self.settings.evaluations // 3),)
        if min(given) < 1:
            raise SettingError(("marks",), f"marks are positive, got {min(given)}")
        return sorted({*(mark for mark in given if mark < most), most})

    def run(self, *, quiet: bool = True) -> Judged:
        """Search and write the report."""
        from suite.report.progress import Progress
        from suite.studies.replay.judge import Judged
        from suite.studies.replay.report import write_replay
        from suite.studies.replay.run import replay

        settings, marks, directory = self.settings, self.marks, Path(self.settings.directory)
        if settings.against not in settings.searchers:
            raise SettingError(
                ("against",), str(unknown_name("searcher of this replay", settings.against, settings.searchers))
            )
        with Progress(quiet=quiet) as progress:
            progress.add("searchers")
            found = replay(
                self.tasks,
                settings.searchers,
                seeds=settings.seeds,
                evaluations=settings.evaluations,
                directory=directory,
                executor=settings.executor.name,
                resources=settings.executor.resources(directory),
                on_start=lambda count: progress.update("searchers", total=count),
                on_searcher=lambda: progress.advance("searchers"),
            )
        judged = Judged(found, marks, settings.against)
        with keyed("orders"):
            write_replay(judged, self.report, settings.orders)
        return judged

    @property
    def report(self) -> Path:
        """Where the report goes."""
        return Path(self.settings.directory) / "report" if self.settings.report is None else Path(self.settings.report)

    def to_json(self, result: Judged) -> str:
        """The JSON of the report."""
        return (self.report / "replay.json").read_text(encoding="utf-8")

    def show(self, result: Judged) -> None:
        """Print both tables, and where the report is."""
        from suite.studies.replay.orders import order_frame, order_of, order_table
        from suite.studies.replay.report import overall_table, task_table

        print_table(task_table(result))
        print_table(overall_table(result))
        if self.settings.orders:
            print_table(order_table(order_frame(order_of(result.board), self.settings.orders)))
        print(f"report in {self.report}")
