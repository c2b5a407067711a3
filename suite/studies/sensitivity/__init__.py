"""The verb ``sensitivity``."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from suite.studies.settings import (
    FidelitySettings,
    Group,
    LoggedExecutor,
    SearchedProblem,
    Searchers,
    default_directory,
    keyed,
    setting,
    with_network,
)
from suite.studies.study import Recorder, Study, print_written

if TYPE_CHECKING:
    from suite.studies.plan import Plan
    from suite.problems.vision import SmoothedProblem
    from suite.studies.sensitivity import run as work


class SensitivitySettings(Group):
    """Settings of a sensitivity study."""

    problem: SearchedProblem = SearchedProblem()
    methods: Searchers | None = setting(
        None, "sensitivity methods (default: all); options follow a name, as in limpq:epochs=5", metavar="A,B,..."
    )
    policies: int = setting(200, "random feasible policies that are measured")
    seed: int = setting(0, "seed of policies and probes")
    directory: str | None = setting(
        None, "where everything goes (default: runs/PROBLEM-BUDGET-sensitivity)", metavar="DIR"
    )
    report: str | None = setting(None, "where the report goes (default: DIRECTORY/report)", metavar="DIR")
    spend: FidelitySettings = FidelitySettings()
    executor: LoggedExecutor = LoggedExecutor()


class Sensitivity(Study[SensitivitySettings, "work.Sensitivity"]):
    """Measure each layer's sensitivity, and how well it predicts.

    Probe a network layer by layer with every sensitivity method, measure random feasible policies, and write tables and
    figures of sensitivities and of how well the methods order the policies. A directory that holds it is resumed.
    """

    Settings = SensitivitySettings
    positional = ("problem.name",)

    @cached_property
    def problem(self) -> SmoothedProblem:
        """Whose network is probed."""
        return with_network(self.settings.problem.load(), "has no network to probe: its losses are a formula")

    @cached_property
    def directory(self) -> Path:
        """Where everything goes."""
        return default_directory(self.settings.directory, self.problem, "sensitivity")

    def run(self, *, quiet: bool = True) -> work.Sensitivity:
        """Measure, probe, and write the report."""
        from baselines import SENSITIVITY
        from suite.report.progress import sensitivity_shown
        from suite.studies.sensitivity.report import write_sensitivity
        from suite.studies.sensitivity.run import analyse_sensitivity, make_methods

        settings, problem = self.settings, self.problem
        methods = settings.methods or SENSITIVITY
        with keyed("methods"):
            make_methods(problem, methods)  # mistakes come out before anything is shown or written
        fidelity = settings.spend.fidelity_of(problem, settings.problem)
        resources, recorder = (
            settings.executor.logged(self.directory),
            Recorder("sensitivity", settings, self.directory),
        )
        with sensitivity_shown(settings.policies, len(methods), quiet=quiet) as (on_trial, on_method):
            found = analyse_sensitivity(
                problem,
                self.directory / "policies",
                methods=methods,
                policies=settings.policies,
                seed=settings.seed,
                fidelity=fidelity,
                executor=settings.executor.name,
                resources=resources,
                on_trial=recorder.before(on_trial),
                on_method=on_method,
            )
        write_sensitivity(found, self.report_directory())
        return found

    def report_directory(self) -> Path:
        """Where the report goes."""
        return self.directory / "report" if self.settings.report is None else Path(self.settings.report)

    def answer(self, result: work.Sensitivity, *, as_json: bool) -> int:
        """Print how well the methods predict."""
        from rich.console import Console

        from suite.studies.sensitivity.report import print_sensitivity

        return print_written(
            self.report_directory() / "sensitivity.json", lambda: print_sensitivity(result, Console()), as_json=as_json
        )

    def plan(self) -> Plan:
        """The measured policies."""
        from suite.studies.plan import plan_measurements

        settings = self.settings
        fidelity = settings.spend.fidelity_of(self.problem, settings.problem, read=False)
        return plan_measurements(self.problem, fidelity, settings.policies, settings.executor)
