"""The verb ``post-steps``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from suite.studies.model import PolicyText, PostStepNames, Seeds, keyed, setting
from suite.studies.settings import CertificateSettings, ExecutorSettings, read_policy
from suite.studies.study import ReportedSettings, ReportedStudy

if TYPE_CHECKING:
    from suite.report.table import Table
    from suite.studies.plan import Plan
    from suite.studies.post_steps.run import PostStepComparison


class JudgingExam(CertificateSettings):
    """How the finetuned networks are certified, and on which images."""

    split: str = setting("exam", "images that judge: exam, or search to choose settings without seeing the exam")


class PostStepsSettings(ReportedSettings):
    """Settings of a comparison of post-steps."""

    post_steps: PostStepNames = setting(
        ("sqwa", "qat", "qat-low-lr", "swa", "none"),
        "what is compared, see 'bitcert list'; the first is the reference; options follow a name, as in "
        "sqwa:captures=3:averaged=masters",
        metavar="A,B,...",
    )
    steps: int | None = setting(None, "optimizer steps of each, where it has no option (default: 400)")
    policies: int = setting(5, "number of policies: the largest uniform one within the budget, and random ones")
    policy: tuple[PolicyText, ...] = setting(
        (),
        "a policy instead of those, as JSON, a file with it, or uniform such as w4a4; may be repeated",
        metavar="POLICY",
        repeat=True,
    )
    seeds: Seeds = setting((0, 1, 2, 3, 4), "seeds of every post-step", metavar="A,B,...")
    exam: JudgingExam = JudgingExam()
    executor: ExecutorSettings = ExecutorSettings()


class PostSteps(ReportedStudy[PostStepsSettings, "PostStepComparison"]):
    """Compare ways of finetuning the same policies.

    Put the same policies through several post-steps, certify each result on held-out images, and write a table and a figure
    of paired differences. A directory that holds the comparison is resumed.
    """

    Settings = PostStepsSettings
    positional = ("problem.name",)
    needs = "network to finetune"
    json = "post_steps.json"

    def run(self, *, quiet: bool = True) -> PostStepComparison:
        """Finetune, certify, and write the report."""
        from suite.report.progress import Progress
        from suite.studies.post_steps.report import write_post_steps
        from suite.studies.post_steps.run import PostStepSettings, compare_post_steps, sample_policies

        settings, problem = self.settings, self.problem
        with keyed("policy" if settings.policy else "policies"):
            given = tuple(read_policy(policy, problem.space) for policy in settings.policy)
            policies = given or sample_policies(problem, settings.policies)
        exam = settings.exam.build(problem, settings.exam.split)
        with keyed("post_steps"):
            wanted = PostStepSettings(settings.post_steps, policies, settings.seeds, exam, settings.steps)
        with Progress(quiet=quiet) as progress:
            progress.add("exams")

            def on_start(exams: int) -> None:
                self.record()
                progress.update("exams", total=exams)

            comparison = compare_post_steps(
                problem,
                wanted,
                self.directory,
                executor=settings.executor.name,
                resources=settings.executor.resources(self.directory),
                on_start=on_start,
                on_exam=lambda _: progress.advance("exams"),
            )
        write_post_steps(comparison, self.report)
        return comparison

    def table(self, result: PostStepComparison) -> Table:
        """The differences."""
        from suite.studies.post_steps.report import post_step_table

        return post_step_table(result)

    def plan(self) -> Plan:
        """Every post-step of every policy and seed, and an exam of each."""
        from suite.protocols import parse_post_step
        from suite.studies.plan import add_exams, plan_for

        settings = self.settings
        with keyed("post_steps"):
            steps = [parse_post_step(name, settings.steps) for name in settings.post_steps]
        policies = len(settings.policy) or settings.policies
        held = [step for step in steps for _ in range(policies * (len(settings.seeds) if step.trains else 1))]
        empty = plan_for(self.problem, settings.executor, 1)
        return add_exams(empty, self.problem, settings.exam, settings.exam.split, held, before=False)
