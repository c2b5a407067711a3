"""The verb ``predictors``."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from suite.studies.model import BudgetTexts, PostStepNames, Searchers, Seeds, SettingError, keyed, setting
from suite.studies.settings import CertificateSettings, ExecutorSettings, in_runs, slug
from suite.studies.study import ReportedSettings, ReportedStudy, with_network

if TYPE_CHECKING:
    from suite.contract.problem import Problem
    from suite.report.table import Table
    from suite.studies.plan import Plan
    from suite.studies.predictors.run import Case
    from suite.studies.predictors.scores import Predictors


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
    deployed: PostStepNames = setting(
        (),
        "the scores, of these or not, whose mean is what the others predict: post-steps that deploy (default: the last score)",
        metavar="A,B,...",
    )
    budgets: BudgetTexts = setting(
        (),
        "budgets, for each of which policies are drawn, in place of the problem's; each has a folder of exams named after it",
        metavar="A,B,...",
    )
    recorded: tuple[str, ...] = setting(
        (),
        "scores.csv of an earlier study of the same policies, its correlations.json beside it: its deployed scores are used as "
        "well, and not measured again; may be repeated",
        metavar="FILE",
        repeat=True,
    )
    predictors: Searchers = setting((), "planning methods whose predicted losses are scores, too", metavar="A,B,...")
    policies: int = setting(
        48, "policies that are drawn for each budget, equally many of every mix of weight and input bits"
    )
    within: float = setting(0.01, "most that they leave of the budget, as a share of it")
    seed: int = setting(0, "seed of the policies")
    seeds: Seeds = setting((0, 1), "seeds of training and of the methods' probes", metavar="A,B,...")
    exam: TwoExams = TwoExams()
    executor: ExecutorSettings = ExecutorSettings()


class PredictorStudy(ReportedStudy[PredictorsSettings, "Predictors"]):
    """Find out which cheap score predicts the deployed one.

    Draw policies that no method chose, all just below a budget, or each of several, and spread over weight and input bits. Score
    them as quantized and after short and long finetuning, and write tables and figures of how well the cheap scores, the bits
    alone and predicted losses order them as the deployed score does, and what each costs. A directory that holds the study is
    resumed.
    """

    Settings = PredictorsSettings
    positional = ("problem.name",)
    needs = "network to finetune"
    json = "correlations.json"

    def run(self, *, quiet: bool = True) -> Predictors:
        """Draw, finetune, certify, and write the report."""
        from suite.report.progress import Progress
        from suite.studies.predictors.report import write_predictors
        from suite.studies.predictors.run import study_predictors

        settings, cases = self.settings, self.cases
        totals: Counter[str] = Counter()
        with Progress(quiet=quiet) as progress:
            for part in ("cheap", "deployed"):
                progress.add(part)

            def on_start(part: str, exams: int) -> None:
                self.record()
                totals[part] += exams
                progress.update(part, total=totals[part])

            found = study_predictors(
                cases,
                predictors=settings.predictors,
                executor=settings.executor.name,
                resources=settings.executor.resources(self.directory),
                on_start=on_start,
                on_exam=progress.advance,
            )
        write_predictors(found, self.report)
        return found

    def load(self) -> Problem:
        """The problem at its own budget, or at the first of several."""
        return self._load(next(iter(self.settings.budgets), None))

    def _load(self, budget: str | None) -> Problem:
        given = self.settings.problem
        if budget is None:
            return given.load()
        if given.budget is not None:
            raise SettingError(("budgets",), "problem.budget and budgets are both given; leave one of them out")
        try:
            return given.model_copy(update={"budget": budget}).load()
        except SettingError as error:
            raise SettingError(("budgets",), str(error)) from None

    @cached_property
    def problems(self) -> list[Problem]:
        """The problem at each budget."""
        others = [with_network(self._load(budget), self.needs) for budget in self.settings.budgets[1:]]
        found = [self.problem, *others]
        if len({slug(problem.budget.text) for problem in found}) < len(found):
            raise SettingError(("budgets",), f"budgets must differ, got {', '.join(self.settings.budgets)}")
        return found

    @property
    def cases(self) -> list[Case]:
        """What is measured at each budget; draws the policies, and reads what is recorded."""
        from suite.studies.post_steps.run import PostStepSettings
        from suite.studies.predictors.design import design_policies
        from suite.studies.predictors.recorded import read_recorded
        from suite.studies.predictors.run import Case

        settings, problems, (cheap, deployed) = self.settings, self.problems, self.parts
        with keyed("policies"):
            count, within, seed = settings.policies, settings.within, settings.seed
            drawn = [design_policies(problem, count, within=within, seed=seed) for problem in problems]

        def measured(number: int, names: tuple[str, ...], split: str, offset: int) -> PostStepSettings:
            seeds = tuple(2 * seed + offset for seed in settings.seeds)  # shared ones would make scores agree by chance
            return PostStepSettings(names, tuple(drawn[number]), seeds, settings.exam.build(problems[number], split))

        with keyed("scores"):
            scores = [measured(number, cheap, settings.exam.cheap_split, 0) for number in range(len(problems))]
            truths = [measured(number, deployed, "exam", 1) for number in range(len(problems))]
        with keyed("recorded"):
            recorded = read_recorded(settings.recorded, problems, drawn, deployed, truths[0].exam)
        parts = zip(problems, drawn, scores, truths, map(self._folder, problems), recorded, strict=True)
        return [Case(*part) for part in parts]

    def _folder(self, problem: Problem) -> Path:
        """Where the exams of a budget go."""
        return self.directory / slug(problem.budget.text) if self.settings.budgets else self.directory

    def default_directory(self) -> Path:
        """Named after the problem and its budgets."""
        first, *others = self.problems
        return in_runs(first, *(slug(problem.budget.text) for problem in others), self._name)

    def table(self, result: Predictors) -> Table:
        """The correlations."""
        from suite.studies.predictors.report import correlation_table

        return correlation_table(result)

    @property
    def parts(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The measured cheap scores, and the deployed ones."""
        deployed = self.settings.deployed or self.settings.scores[-1:]
        cheap = tuple(name for name in self.settings.scores if name not in deployed)
        if not cheap:
            raise SettingError(("scores",), f"name at least one score besides the deployed one, {', '.join(deployed)}")
        return cheap, deployed

    def plan(self) -> Plan:
        """Every policy after every post-step, with every seed where it trains, and two exams of the float network per budget."""
        from suite.protocols import parse_post_step
        from suite.studies.plan import add_exams, plan_for

        settings, planned = self.settings, plan_for(self.problem, self.settings.executor)
        passes: Counter[str] = Counter()
        cheap, deployed = self.parts
        for problem in self.problems:
            for names, split in ((cheap, settings.exam.cheap_split), (deployed, "exam")):
                steps = map(parse_post_step, names)
                held = [
                    step
                    for step in steps
                    for _ in range(settings.policies * (len(settings.seeds) if step.trains else 1))
                ]
                planned = add_exams(replace(planned, passes={}), problem, settings.exam, split, held, before=False)
                passes.update(planned.passes)
        notes = {
            "probes of planning methods come on top": settings.predictors,
            "recorded scores, which are not measured again, are counted": settings.recorded,
        }
        return replace(planned, passes=passes, notes=tuple(note for note, applies in notes.items() if applies))
