"""The verb ``predictors``."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from suite.studies.model import PostStepName, PostStepNames, Searchers, Seeds, SettingError, keyed, setting
from suite.studies.settings import CertificateSettings, ExecutorSettings
from suite.studies.study import ReportedSettings, ReportedStudy

if TYPE_CHECKING:
    from suite.report.table import Table
    from suite.studies.plan import Plan
    from suite.studies.predictors.run import Predictors


class TwoExams(CertificateSettings):
    """How policies are certified for the deployed score, and on which images for the cheap ones."""

    cheap_split: str = setting(
        "search",
        "images of the cheap scores: search, or exam, on which the deployed score is measured, to share their chance",
    )


class PredictorsSettings(ReportedSettings):
    """Settings of a study of which cheap score predicts the deployed one."""

    scores: PostStepNames = setting(
        ("plain", "none", "qat:steps=100", "sqwa", "qat:steps=800"),
        "post-steps after which every policy is scored, see 'bitcert list'; options follow a name, as in qat:steps=100",
        metavar="A,B,...",
    )
    deployed: PostStepName | None = setting(None, "the score that the others predict (default: the last)", metavar="A")
    predictors: Searchers = setting((), "planning methods whose predicted losses are scores, too", metavar="A,B,...")
    policies: int = setting(48, "policies that are drawn, equally many of every mix of weight and input bits")
    within: float = setting(0.01, "most that they leave of the budget, as a share of it")
    seed: int = setting(0, "seed of the policies")
    seeds: Seeds = setting((0, 1), "seeds of training and of the methods' probes", metavar="A,B,...")
    exam: TwoExams = TwoExams()
    executor: ExecutorSettings = ExecutorSettings()


class PredictorStudy(ReportedStudy[PredictorsSettings, "Predictors"]):
    """Find out which cheap score predicts the deployed one.

    Draw policies that no method chose, all just below the budget and spread over weight and input bits. Score them as
    quantized and after short and long finetuning, and write tables and figures of how well the cheap scores, the bits alone and
    predicted losses order them as the deployed score does. A directory that holds the study is resumed.
    """

    Settings = PredictorsSettings
    positional = ("problem.name",)
    needs = "network to finetune"
    json = "correlations.json"

    def run(self, *, quiet: bool = True) -> Predictors:
        """Draw, finetune, certify, and write the report."""
        from suite.report.progress import Progress
        from suite.studies.post_steps.run import PostStepSettings
        from suite.studies.predictors.design import design_policies
        from suite.studies.predictors.report import write_predictors
        from suite.studies.predictors.run import study_predictors

        settings, problem = self.settings, self.problem
        cheap, deployed = self.parts
        with keyed("policies"):
            policies = design_policies(problem, settings.policies, within=settings.within, seed=settings.seed)

        def measured(names: tuple[str, ...], split: str, offset: int) -> PostStepSettings:
            seeds = tuple(2 * seed + offset for seed in settings.seeds)  # shared ones would make scores agree by chance
            return PostStepSettings(names, tuple(policies), seeds, settings.exam.build(problem, split))

        with keyed("scores"):
            scores = measured(cheap, settings.exam.cheap_split, 0), measured((deployed,), "exam", 1)
        with Progress(quiet=quiet) as progress:
            for part in ("cheap", "deployed"):
                progress.add(part)

            def on_start(part: str, exams: int) -> None:
                self.record()
                progress.update(part, total=exams)

            found = study_predictors(
                problem,
                policies,
                *scores,
                directory=self.directory,
                predictors=settings.predictors,
                executor=settings.executor.name,
                resources=settings.executor.resources(self.directory),
                on_start=on_start,
                on_exam=progress.advance,
            )
        write_predictors(found, self.report)
        return found

    def table(self, result: Predictors) -> Table:
        """The correlations."""
        from suite.studies.predictors.report import correlation_table

        return correlation_table(result)

    @property
    def parts(self) -> tuple[tuple[str, ...], str]:
        """The measured cheap scores, and the deployed one."""
        scores, deployed = self.settings.scores, self.settings.deployed or self.settings.scores[-1]
        cheap = tuple(name for name in scores if name != deployed)
        if not cheap:
            raise SettingError(("scores",), f"name at least one score besides the deployed one, {deployed}")
        return cheap, deployed

    def plan(self) -> Plan:
        """Every policy after every post-step, with every seed where it trains, and two exams of the float network."""
        from suite.protocols import parse_post_step
        from suite.studies.plan import add_exams, plan_for

        settings, empty = self.settings, plan_for(self.problem, self.settings.executor)
        passes: Counter[str] = Counter()
        cheap, deployed = self.parts
        for names, split in ((cheap, settings.exam.cheap_split), ((deployed,), "exam")):
            steps = map(parse_post_step, names)
            held = [
                step for step in steps for _ in range(settings.policies * (len(settings.seeds) if step.trains else 1))
            ]
            passes.update(add_exams(empty, self.problem, settings.exam, split, held, before=False).passes)
        return replace(
            empty, passes=passes, notes=("probes of planning methods come on top",) if settings.predictors else ()
        )
