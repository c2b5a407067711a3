"""The verb ``plane``."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from suite.contract.problem import Problem
from suite.studies.model import PostStepName, setting
from suite.studies.settings import ExecutorSettings, PostStepSettings, SampleSettings
from suite.studies.study import ReportedSettings, ReportedStudy, check_same_network, load_recorded

if TYPE_CHECKING:
    from suite.report.table import Table
    from suite.run.records import Run
    from suite.studies.plan import Plan
    from suite.studies.plane.run import LossPlane


class PlaneSettings(ReportedSettings, PostStepSettings):
    """Settings of a loss plane."""

    run: str = setting(..., "directory of a search; its best policy, on the run's problem", metavar="RUN")
    post_step: PostStepName = setting(
        "sqwa:captures=3", "sqwa, with options after the name; with three captures their average lies in the plane"
    )
    size: int = setting(15, "points along each axis")
    spend: SampleSettings = SampleSettings()


class Plane(ReportedStudy[PlaneSettings, "LossPlane"]):
    """Map the loss around a winner's captures.

    Put the best policy of a run through SQWA and map the plane through three of its captures: every point is quantized before
    its loss and its certified radius are measured. A directory that holds the plane is resumed.
    """

    Settings = PlaneSettings
    positional = ("run",)
    needs = "network to finetune"
    json = "plane.json"

    @cached_property
    def recorded(self) -> tuple[Run, Problem]:
        """The run and its problem."""
        return load_recorded(self.settings.run, self.settings.problem)

    def load(self) -> Problem:
        """The run's."""
        return self.recorded[1]

    def default_directory(self) -> Path:
        """Beside the run."""
        return Path(f"{self.settings.run.rstrip('/')}-plane")

    def run(self, *, quiet: bool = True) -> LossPlane:
        """Train, measure, and write the report."""
        from suite.report.progress import Progress
        from suite.studies.plane.report import write_plane
        from suite.studies.plane.run import map_plane

        (run, _), problem, size = self.recorded, self.problem, self.settings.size
        check_same_network(run.provenance, problem)
        assert run.best is not None
        step, fidelity = self.settings.step(), self.settings.spend.fidelity(problem)
        with Progress(quiet=quiet) as progress:
            progress.add("finetuning", step.steps)
            progress.add("points", size**2 + 5)
            plane = map_plane(
                problem,
                run.best.policy,
                self.directory,
                post_step=step,
                size=size,
                fidelity=fidelity,
                on_start=self.record,
                on_step=lambda done: progress.update("finetuning", done),
                on_point=lambda count: progress.update("points", count),
            )
        write_plane(plane, self.report)
        return plane

    def table(self, result: LossPlane) -> Table:
        """The marks."""
        from suite.studies.plane.report import mark_table

        return mark_table(result)

    def plan(self) -> Plan:
        """One post-step, and a measurement of every point and mark."""
        from suite.studies.plan import add_post_steps, plan_measurements

        fidelity, points = self.settings.spend.fidelity(self.problem, read=False), self.settings.size**2 + 5
        planned = plan_measurements(self.problem, fidelity, points, ExecutorSettings())
        return add_post_steps(planned, [self.settings.step()], measured=points)
