"""The verb ``post-steps``."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from suite.studies.settings import (
    CertificateSettings,
    ExecutorSettings,
    Group,
    PolicyText,
    PostSteps as PostStepNames,
    ProblemSettings,
    Seeds,
    default_directory,
    keyed,
    read_policy,
    setting,
    with_network,
)
from suite.studies.study import Recorder, Study, print_written

if TYPE_CHECKING:
    from suite.studies.plan import Plan
    from suite.problems.vision import SmoothedProblem
    from suite.studies.post_steps.run import PostStepComparison, PostStepSettings


class JudgingExam(CertificateSettings):
    """How the finetuned networks are certified, and on which images."""

    split: str = setting("exam", "images that judge: exam, or search to choose settings without seeing the exam")


class PostStepsSettings(Group):
    """Settings of a comparison of post-steps."""

    problem: ProblemSettings = ProblemSettings()
    post_steps: PostStepNames = setting(
        ("sqwa", "qat", "qat-low-lr", "swa", "none"),
        "what is compared, see 'bitcert list'; the first is the reference; options follow a name, as in "
        "sqwa:captures=3:averaged=masters",
        metavar="A,B,...",
    )
    steps: int | None = setting(None, "optimizer steps of each, where it has no option (default: 400)")
    policies: int = setting(5, "number of policies: the largest uniform one within the budget, and random ones")
    policy: tuple[PolicyText, ...] = setting(
        (), "a policy, or a file with it, instead of those; may be repeated", metavar="JSON", repeat=True
    )
    seeds: Seeds = setting((0, 1, 2, 3, 4), "seeds of every post-step", metavar="A,B,...")
    directory: str | None = setting(
        None, "where everything goes (default: runs/PROBLEM-BUDGET-post-steps)", metavar="DIR"
    )
    report: str | None = setting(None, "where the report goes (default: DIRECTORY/report)", metavar="DIR")
    exam: JudgingExam = JudgingExam()
    executor: ExecutorSettings = ExecutorSettings()


class PostSteps(Study[PostStepsSettings, "PostStepComparison"]):
    """Compare ways of finetuning the same policies.

    Put the same policies through several post-steps, certify each result on held-out images, and write a table and a figure
    of paired differences. A directory that holds the comparison is resumed.
    """

    Settings = PostStepsSettings
    positional = ("problem.name",)

    @cached_property
    def problem(self) -> SmoothedProblem:
        """Whose network is finetuned."""
        return with_network(self.settings.problem.load(), "has no network to finetune: its scores are a formula")

    @cached_property
    def directory(self) -> Path:
        """Where everything goes."""
        return default_directory(self.settings.directory, self.problem, "post-steps")

    def comparison(self) -> PostStepSettings:
        """What the functions take."""
        from suite.studies.post_steps.run import PostStepSettings, sample_policies

        settings = self.settings
        with keyed("policy" if settings.policy else "policies"):
            policies = tuple(map(read_policy, settings.policy)) or sample_policies(self.problem, settings.policies)
        exam = settings.exam.build(self.problem, settings.exam.split)
        with keyed("post_steps"):
            return PostStepSettings(settings.post_steps, policies, settings.seeds, exam, settings.steps)

    def run(self, *, quiet: bool = True) -> PostStepComparison:
        """Finetune, certify, and write the report."""
        from suite.report.progress import exams_shown
        from suite.studies.post_steps.report import write_post_steps
        from suite.studies.post_steps.run import compare_post_steps

        wanted = self.comparison()
        resources = self.settings.executor.resources(self.directory)
        recorder = Recorder("post-steps", self.settings, self.directory)
        with exams_shown(quiet=quiet) as (on_start, on_exam):
            comparison = compare_post_steps(
                self.problem,
                wanted,
                self.directory,
                executor=self.settings.executor.name,
                resources=resources,
                on_start=recorder.before(on_start),
                on_exam=on_exam,
            )
        write_post_steps(comparison, self.report_directory())
        return comparison

    def report_directory(self) -> Path:
        """Where the report goes."""
        return self.directory / "report" if self.settings.report is None else Path(self.settings.report)

    def answer(self, result: PostStepComparison, *, as_json: bool) -> int:
        """Print the differences."""
        from rich.console import Console

        from suite.studies.post_steps.report import print_post_steps

        return print_written(
            self.report_directory() / "post_steps.json", lambda: print_post_steps(result, Console()), as_json=as_json
        )

    def plan(self) -> Plan:
        """Every post-step of every policy and seed, and an exam of each."""
        from suite.run.post_step import parse_post_step
        from suite.studies.plan import add_exams, plan_for

        settings = self.settings
        with keyed("post_steps"):
            steps = [parse_post_step(name, settings.steps) for name in settings.post_steps]
        policies = len(settings.policy) or settings.policies
        held = [step for step in steps for _ in range(policies * (1 if step.name == "none" else len(settings.seeds)))]
        empty = plan_for(self.problem, settings.executor)
        return add_exams(empty, self.problem, settings.exam, settings.exam.split, held, before=False)
