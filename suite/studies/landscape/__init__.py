"""The verb ``landscape``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from suite.errors import BitcertError
from suite.studies.model import BudgetTexts, Group, ProtocolNames, SettingError, keyed, setting
from suite.studies.study import Study, print_table

if TYPE_CHECKING:
    from suite.problems.tabular import TabularProblem
    from suite.studies.landscape.report import Landscape


class LandscapeSettings(Group):
    """Settings of an analysis of tables."""

    tables: tuple[str, ...] = setting(
        ..., "complete tables, as made by 'bitcert build-table'; may be repeated", metavar="FILE", repeat=True
    )
    protocols: ProtocolNames = setting(("ptq",), "protocols of every table", metavar="A,B,...")
    budgets: BudgetTexts = setting(..., "budgets, at each of which tables are analysed", metavar="A,B,...")
    objective: str = setting("acr", "acr, clean, or certified@0.25,0.5")
    report: str = setting("runs/landscape", "where the report goes", metavar="DIR")


class LandscapeStudy(Study[LandscapeSettings, "dict[str, Landscape]"]):
    """Say what makes the search of a table hard.

    How many policies are near the optimum, how many local optima there are, how far a sum over layers explains the scores, and how
    policies' order changes with noise and protocol.
    """

    Settings = LandscapeSettings

    def _load(self, file: str, protocol: str, budget: str) -> TabularProblem:
        from suite.problems import load_problem
        from suite.problems.tabular import TabularProblem

        with keyed("tables"):
            problem = load_problem(
                f"table:file={file}", budget=budget, protocol=protocol, objective=self.settings.objective
            )
        if not isinstance(problem, TabularProblem):
            raise SettingError(("tables",), f"{file} is no table")
        return problem

    def run(self, *, quiet: bool = True) -> dict[str, Landscape]:
        """Analyse the tables and write the report."""
        from suite.studies.landscape.measure import additivity, hardness
        from suite.studies.landscape.report import write_landscapes

        settings = self.settings
        found: dict[str, Landscape] = {}
        stems = [Path(file).stem for file in settings.tables]
        if len(set(stems)) < len(stems):
            raise SettingError(("tables",), "tables must have different names")
        for stem, file in zip(stems, settings.tables, strict=True):
            for protocol in settings.protocols:
                problems = [self._load(file, protocol, budget) for budget in settings.budgets]
                name = stem if len(settings.protocols) == 1 else f"{stem} {protocol}"
                with keyed("budgets"):
                    measured = [hardness(problem) for problem in problems]
                found[name] = (problems[0], additivity(problems[0]), measured)
        if not found:
            raise BitcertError("name a table, a protocol and a budget")
        write_landscapes(found, Path(settings.report))
        return found

    def to_json(self, result: dict[str, Landscape]) -> str:
        """The JSON of the report."""
        return (Path(self.settings.report) / "landscape.json").read_text(encoding="utf-8")

    def show(self, result: dict[str, Landscape]) -> None:
        """Print both tables, and where the report is."""
        from suite.studies.landscape.report import additivity_frame, additivity_table, hardness_frame, hardness_table

        print_table(hardness_table(hardness_frame(result)))
        print_table(additivity_table(additivity_frame(result)))
        print(f"report in {self.settings.report}")
