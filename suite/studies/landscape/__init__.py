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
        ...,
        "complete tables: files made by 'bitcert build-table', or digits-table; may be repeated",
        metavar="FILE",
        repeat=True,
    )
    protocols: ProtocolNames = setting(("ptq",), "protocols of every table", metavar="A,B,...")
    budgets: BudgetTexts = setting(..., "budgets, at each of which tables are analysed", metavar="A,B,...")
    objective: str = setting("acr", "acr, clean, or certified@0.25,0.5")
    out: str = setting("runs/landscape", "where the report goes", metavar="DIR")


class LandscapeStudy(Study[LandscapeSettings, "dict[str, Landscape]"]):
    """Say what makes the search of a table hard.

    How many policies are near the optimum, how many local optima there are, how far a sum over layers explains the scores, and how
    policies' order changes with noise and protocol.
    """

    Settings = LandscapeSettings

    def _load(self, file: str, protocol: str, budget: str) -> TabularProblem:
        from suite.problems.tabular import load_table

        with keyed("tables"):
            return load_table(file, budget=budget, protocol=protocol, objective=self.settings.objective)

    def run(self, *, quiet: bool = True) -> dict[str, Landscape]:
        """Analyse the tables and write the report."""
        from suite.studies.landscape.measure import additivity, hardness
        from suite.studies.landscape.report import write_landscapes

        settings = self.settings
        found: dict[str, Landscape] = {}
        for file in settings.tables:
            for protocol in settings.protocols:
                problems = [self._load(file, protocol, budget) for budget in settings.budgets]
                stem = problems[0].file.stem
                name = stem if len(settings.protocols) == 1 else f"{stem} {protocol}"
                if name in found:
                    raise SettingError(("tables",), f"two tables are named {stem}")
                with keyed("budgets"):
                    measured = [hardness(problem) for problem in problems]
                found[name] = (problems[0], additivity(problems[0]), measured)
        if not found:
            raise BitcertError("name a table, a protocol and a budget")
        write_landscapes(found, Path(settings.out))
        return found

    def to_json(self, result: dict[str, Landscape]) -> str:
        """The JSON of the report."""
        return (Path(self.settings.out) / "landscape.json").read_text(encoding="utf-8")

    def show(self, result: dict[str, Landscape]) -> None:
        """Print both tables, and where the report is."""
        from suite.studies.landscape.report import additivity_frame, additivity_table, hardness_frame, hardness_table

        print_table(hardness_table(hardness_frame(result)))
        print_table(additivity_table(additivity_frame(result)))
        print(f"report in {self.settings.out}")
