"""The verb ``examine``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import model_validator

from suite.contract.problem import Problem
from suite.contract.space import Policy
from suite.errors import BitcertError
from suite.plugins import with_options
from suite.studies.model import Group, PolicyText, keyed, setting
from suite.studies.settings import ExecutorSettings, HeldOutSettings, ProblemSettings, read_policy
from suite.studies.study import Study, check_same_network, load_recorded, recorded_problem, with_network

if TYPE_CHECKING:
    from suite.protocols import PostStep
    from suite.quantize.integer import OnnxNetwork
    from suite.run.records import Outcome
    from suite.studies.plan import Plan


class ExamineSettings(Group):
    """Settings of one exam."""

    run: str | None = setting(None, "certify the best policy of this run; the problem is the run's", metavar="DIR")
    policy: PolicyText | None = setting(
        None,
        'certify this policy: {"weights":[...],"activations":[...]}, a file with it, or a uniform one such as w4a4',
        metavar="POLICY",
    )
    model: str | None = setting(
        None, "certify this file, which bitcert export wrote; the problem is the one it names", metavar="FILE"
    )
    float_network: bool = setting(False, "certify the float network", flag="--float")
    problem: ProblemSettings = ProblemSettings()
    out: str | None = setting(
        None, "also write the outcome, one row per image, as JSON; an interrupted exam with it resumes", metavar="FILE"
    )
    exam: HeldOutSettings = HeldOutSettings()

    @model_validator(mode="after")
    def _one_network(self) -> ExamineSettings:
        if sum([self.run is not None, self.policy is not None, self.model is not None, self.float_network]) != 1:
            raise BitcertError(
                "say what is certified: one of --run, --policy, --model and --float (float_network in a file)"
            )
        return self


class Examine(Study[ExamineSettings, "Outcome"]):
    """Certify one policy on held-out images.

    Certify the best policy of a run, a given policy, an exported model, or the float network on exam images with fresh noise.
    """

    Settings = ExamineSettings
    checked = True

    @cached_property
    def network(self) -> tuple[Mapping[str, Any] | None, Policy | None, Problem]:
        """The record that it comes from if there is one, the policy (None: the float network), and the problem."""
        settings, purpose = self.settings, "images to hold an exam on"
        if settings.run is not None:
            run, problem = load_recorded(settings.run, settings.problem)
            return run.provenance, None if run.best is None else run.best.policy, with_network(problem, purpose)
        if self.model is not None:
            _, about = self.model
            problem = recorded_problem({**about["problem"], "engine": "onnx"}, settings.problem)
            return about["problem"], Policy.from_dict(about["policy"]), with_network(problem, purpose)
        problem = settings.problem.load()
        with keyed("policy"):
            policy = None if settings.policy is None else read_policy(settings.policy, problem.space)
        return None, policy, with_network(problem, purpose)

    @cached_property
    def model(self) -> tuple[OnnxNetwork, dict[str, Any]] | None:
        """The exported model and its description, if one is certified."""
        from suite.run.deployed import read_deployed

        if self.settings.model is None:
            return None
        with keyed("model"):
            return read_deployed(Path(self.settings.model))

    @property
    def step(self) -> PostStep:
        """The post-step: the one that an exported model has gone through, or as the settings say."""
        from suite.protocols import parse_post_step

        if self.model is None:
            return self.settings.exam.step()
        recorded = dict(self.model[1]["post_step"])
        name, steps = recorded.pop("name"), recorded.pop("steps", None)
        return parse_post_step(with_options(name, recorded), steps)

    @property
    def finetune_steps(self) -> int | None:
        """Finetuning steps of the search; None for the problem's."""
        if self.model is not None:
            return int(self.model[1]["finetune_steps"])
        record, _, _ = self.network
        return None if record is None else int(record["fidelity"]["finetune_steps"])

    def run(self, *, quiet: bool = True) -> Outcome:
        """Hold the exam."""
        from suite.kept import kept_beside, remove_kept
        from suite.report.progress import Progress
        from suite.run.exam import exam_forward_passes, examine
        from suite.run.outcomes import write_outcome

        record, policy, problem = self.network
        if record is not None:
            check_same_network(record, problem)
        exam, step = self.settings.exam.build(problem), self.step
        steps = 0 if policy is None or self.model is not None else step.steps
        with keyed("exam"):
            passes = exam_forward_passes(problem, exam)
        out = None if self.settings.out is None else Path(self.settings.out)
        with Progress(quiet=quiet) as progress:
            progress.add("post-step", steps)
            progress.add("exam", passes)
            outcome = examine(
                problem,
                policy,
                step,
                exam=exam,
                finetune_steps=self.finetune_steps,
                state=None if out is None else kept_beside(out),
                progress=lambda count: progress.advance("exam", count),
                on_step=lambda done: progress.update("post-step", done),
                deployed=None if self.model is None else self.model[0],
            )
        if out is not None:
            write_outcome(outcome, out)
            remove_kept(kept_beside(out))
        return outcome

    def to_json(self, result: Outcome) -> str:
        """Metrics with their provenance."""
        content = {"post_step": result.post_step, "metrics": result.metrics.to_dict(), "provenance": result.provenance}
        return json.dumps(content)

    def show(self, result: Outcome) -> None:
        """Print the certificates' summary."""
        from suite.report.exams import norm_text

        metrics, exam = result.metrics, result.provenance["exam"]
        sampled = f"n = {exam['n']}, alpha = {exam['alpha']:g}" if metrics.alpha else f"{metrics.method}, without noise"
        print("float network" if result.policy is None else result.policy.to_json())
        print(
            f"  exam of {len(result.labels)} images, {sampled}, post-step {result.post_step}"
            f"{', exact arithmetic' if 'arithmetic' in exam else ''}"
        )
        scores = {"ACR": metrics.acr, "clean accuracy": metrics.clean_accuracy}
        shown = [f"{name} {score:.4f}" for name, score in scores.items() if score is not None]
        costs = [f"{metrics.bops:,} BOPs", *(f"{name} {cost:,}" for name, cost in metrics.costs.items())]
        print(f"  {'   '.join([*shown, *costs])}")
        shares = [f"{share:.3f} at {radius:g}" for radius, share in (metrics.certified_accuracy or {}).items()]
        if shares:
            print(f"  certified accuracy in {norm_text(metrics.norm)} {'  '.join(shares)}")
        if undecided := metrics.values.get("undecided"):
            print(f"  undecided, and not counted as certified: {undecided:.3f} of the images")

    def plan(self) -> Plan:
        """One exam, after its post-step."""
        from suite.studies.plan import add_exams, plan_for

        _, policy, problem = self.network
        empty, exam = plan_for(problem, ExecutorSettings()), self.settings.exam
        steps = [] if policy is None or self.model is not None else [exam.step()]
        return add_exams(empty, problem, exam, "exam", steps, before=False, references=1 - len(steps))
