"""The verb ``sensitivity``."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from suite.studies.model import Searchers, keyed, setting
from suite.studies.settings import FidelitySettings, LoggedExecutor, ProblemSettings
from suite.studies.study import ReportedSettings, ReportedStudy

if TYPE_CHECKING:
    from suite.report.table import Table
    from suite.studies.plan import Plan
    from suite.studies.sensitivity import run as work


class SensitivitySettings(ReportedSettings):
    """Settings of a sensitivity study."""

    problem: ProblemSettings = ProblemSettings()
    methods: Searchers | None = setting(
        None, "sensitivity methods (default: all); options follow a name, as in limpq:epochs=5", metavar="A,B,..."
    )
    policies: int = setting(200, "random feasible policies that are measured")
    seed: int = setting(0, "seed of policies and probes")
    spend: FidelitySettings = FidelitySettings()
    executor: LoggedExecutor = LoggedExecutor()


class Sensitivity(ReportedStudy[SensitivitySettings, "work.Sensitivity"]):
    """Measure each layer's sensitivity, and how well it predicts.

    Probe a network layer by layer with every sensitivity method, measure random feasible policies, and write tables and
    figures of sensitivities and of how well the methods order the policies. A directory that holds it is resumed.
    """

    Settings = SensitivitySettings
    positional = ("problem.name",)
    needs = "network to probe"
    json = "sensitivity.json"

    def run(self, *, quiet: bool = True) -> work.Sensitivity:
        """Measure, probe, and write the report."""
        from suite.report.progress import Progress
        from suite.run.registry import predicting_names
        from suite.studies.sensitivity.report import write_sensitivity
        from suite.studies.sensitivity.run import analyse_sensitivity, make_methods

        settings, problem = self.settings, self.problem
        methods = settings.methods or predicting_names()
        with keyed("methods"):
            make_methods(problem, methods)  # mistakes come out before anything is shown or written
        fidelity = settings.spend.fidelity_of(problem, settings.problem)
        resources = settings.executor.logged(self.directory)
        with Progress(quiet=quiet) as progress:
            progress.add("policies", settings.policies)
            progress.add("methods", len(methods))
            probed = itertools.count()
            found = analyse_sensitivity(
                problem,
                self.directory / "policies",
                methods=methods,
                policies=settings.policies,
                seed=settings.seed,
                fidelity=fidelity,
                executor=settings.executor.name,
                resources=resources,
                on_start=self.record,
                on_trial=lambda _: progress.advance("policies"),
                on_method=lambda name: progress.update("methods", next(probed), state=f"probing for {name}"),
            )
            progress.update("methods", len(methods), state="")
        write_sensitivity(found, self.report)
        return found

    def table(self, result: work.Sensitivity) -> Table:
        """How well the methods predict."""
        from suite.studies.sensitivity.report import method_table

        return method_table(result)

    def plan(self) -> Plan:
        """The measured policies; probes come on top."""
        from suite.studies.plan import plan_measurements

        settings = self.settings
        fidelity = settings.spend.fidelity_of(self.problem, settings.problem, read=False)
        return plan_measurements(self.problem, fidelity, settings.policies, settings.executor)
