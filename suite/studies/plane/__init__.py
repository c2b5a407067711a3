"""The verb ``plane``."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from suite.studies.settings import (
    ExecutorSettings,
    PostStepName,
    PostStepSettings,
    ProblemSettings,
    SampleSettings,
    setting,
    with_network,
)
from suite.studies.study import Recorder, Study, check_same_network, load_recorded, print_written

if TYPE_CHECKING:
    from suite.studies.plan import Plan
    from suite.problems.vision import SmoothedProblem
    from suite.run.records import Run
    from suite.studies.plane.run import LossPlane


class PlaneSettings(PostStepSettings):
    """Settings of a loss plane."""

    run: str = setting(..., "directory of a search; its best policy, on the run's problem", metavar="RUN")
    problem: ProblemSettings = ProblemSettings()
    post_step: PostStepName = setting(
        "sqwa:captures=3",
        "sqwa, with options after the name; with three captures their average lies in the plane",
    )
    size: int = setting(15, "points along each axis")
    directory: str | None = setting(None, "where everything goes (default: RUN-plane)", metavar="DIR")
    report: str | None = setting(None, "where the report goes (default: DIRECTORY/report)", metavar="DIR")
    spend: SampleSettings = SampleSettings()


class Plane(Study[PlaneSettings, "LossPlane"]):
    """Map the loss around a winner's captures.

    Put the best policy of a run through SQWA and map the plane through three of its captures: every point is quantized before
    its loss and its certified radius are measured. A directory that holds the plane is resumed.
    """

    Settings = PlaneSettings
    positional = ("run",)

    @cached_property
    def recorded(self) -> tuple[Run, SmoothedProblem]:
        """The run, and its problem."""
        run, settings = load_recorded(self.settings.run, self.settings.problem)
        return run, with_network(settings.load(), "has no network to finetune: its scores are a formula")

    @cached_property
    def directory(self) -> Path:
        """Where everything goes."""
        return Path(self.settings.directory or f"{self.settings.run.rstrip('/')}-plane")

    def run(self, *, quiet: bool = True) -> LossPlane:
        """Train, measure, and write the report."""
        from suite.report.progress import plane_shown
        from suite.studies.plane.report import write_plane
        from suite.studies.plane.run import map_plane

        run, problem = self.recorded
        check_same_network(run, problem)
        assert run.best is not None
        step, fidelity = self.settings.step(), self.settings.spend.fidelity(problem)
        recorder = Recorder("plane", self.settings, self.directory)
        with plane_shown(step.steps, self.settings.size, quiet=quiet) as (on_step, on_point):
            plane = map_plane(
                problem,
                run.best.policy,
                self.directory,
                post_step=step,
                size=self.settings.size,
                fidelity=fidelity,
                on_step=recorder.before(on_step),
                on_point=recorder.before(on_point),
            )
        write_plane(plane, self.report_directory())
        return plane

    def report_directory(self) -> Path:
        """Where the report goes."""
        return self.directory / "report" if self.settings.report is None else Path(self.settings.report)

    def answer(self, result: LossPlane, *, as_json: bool) -> int:
        """Print the marks."""
        from rich.console import Console

        from suite.studies.plane.report import print_plane

        return print_written(
            self.report_directory() / "plane.json", lambda: print_plane(result, Console()), as_json=as_json
        )

    def plan(self) -> Plan:
        """One post-step, and a measurement of every point and mark."""
        from suite.studies.plan import add_post_steps, plan_measurements

        _, problem = self.recorded
        fidelity, points = self.settings.spend.fidelity(problem, read=False), self.settings.size**2 + 5
        planned = plan_measurements(problem, fidelity, points, ExecutorSettings())
        return add_post_steps(planned, problem, [self.settings.step()], measured=points)
