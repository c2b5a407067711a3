"""Cheap scores and deployed ones of the same policies, on different images and with different training seeds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from baselines.planned import PlannedSearcher
from suite.contract.objective import Objective
from suite.contract.problem import Problem
from suite.contract.space import Policy
from suite.execute.executor import Resources
from suite.protocols import parse_post_step
from suite.report.exams import check_same_exam, exam_score, image_scores
from suite.run.exam import check_exam
from suite.run.provenance import software
from suite.run.records import Outcome
from suite.studies.post_steps.run import PostStepComparison, PostStepSettings, compare_post_steps
from suite.studies.predictors.design import Stratum
from suite.studies.predictors.recorded import Recorded
from suite.studies.predictors.scores import FREE, AtBudget, Predictors, Score
from suite.studies.sensitivity.run import make_methods
from suite.workbench import workbench_of


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """What is to be scored at one budget.

    Attributes:
        problem: A network and its data, at this budget.
        policies: With strata; see :func:`suite.studies.predictors.design.design_policies`.
        cheap: The measured cheap scores of these policies. With the seeds and the images of ``deployed``, scores would agree
            by chance that they share.
        deployed: What deploys these policies.
        directory: Where the exams go, one file each, in folders ``cheap`` and ``deployed``.
        recorded: Deployed scores that need not be measured again, by post-step.
    """

    problem: Problem
    policies: Mapping[Policy, Stratum]
    cheap: PostStepSettings
    deployed: PostStepSettings
    directory: Path
    recorded: Mapping[str, Recorded] = field(default_factory=dict)


def study_predictors(
    cases: Sequence[Case],
    *,
    predictors: Sequence[str] = (),
    executor: str = "inline",
    resources: Resources | None = None,
    on_start: Callable[[str, int], object] = lambda *_: None,
    on_exam: Callable[[str], None] = lambda _: None,
) -> Predictors:
    """Score policies cheaply and as deployed; a directory with the same study is resumed.

    Args:
        cases: One for each budget, on equal problems otherwise, with the same post-steps, seeds and exams.
        predictors: Planning methods whose predicted losses are scores, too, one probe for each seed of the cheap scores, for all
            budgets where the prediction does not depend on it.
        executor: ``"inline"`` or ``"ray"``; equal results.
        resources: For the Ray executor.
        on_start: Called with ``"cheap"`` or ``"deployed"``, and the number of further exams to be held.
        on_exam: Called with the same word after each.

    Raises:
        BitcertError: If a method predicts no losses, images are missing, or a directory holds something else.
    """
    for case in cases:
        check_exam(case.problem, case.deployed.exam)
    first = cases[0]
    made = {
        name: [make_methods(first.problem, [name], seed)[name] for seed in first.cheap.seeds] for name in predictors
    }

    def measure(part: str, case: Case, settings: PostStepSettings) -> PostStepComparison:
        return compare_post_steps(
            case.problem,
            settings,
            case.directory / part,
            executor=executor,
            resources=resources,
            on_start=lambda exams: on_start(part, exams),
            on_exam=lambda _: on_exam(part),
        )

    measured = [measure("cheap", case, case.cheap) for case in cases]
    deployed = [
        {
            name: _measured(measure("deployed", case, settings), name, case.problem.objective)
            for settings in unrecorded(case)
            for name in settings.post_steps
        }
        for case in cases
    ]
    predicted, setup = {}, {}
    for name in predictors:
        predicted[name], setup[name] = _predict(name, made[name], cases)
    for name in first.cheap.post_steps:
        setup[name] = parse_post_step(name).setup_passes(workbench_of(first.problem, "network to finetune"))
    parts = []
    for number, case in enumerate(cases):
        scores = [
            Score(name, "free", values) for name, values in _free_scores(case.problem, list(case.policies)).items()
        ]
        scores += [predicted[name][number] for name in predictors]
        scores += [_measured(measured[number], name, case.problem.objective) for name in case.cheap.post_steps]
        targets = [
            with_recorded(name, deployed[number].get(name), case.recorded.get(name))
            for name in case.deployed.post_steps
        ]
        parts.append(AtBudget(case.problem.budget.text, case.policies, tuple(scores), tuple(targets)))
    return Predictors(tuple(parts), first.problem.objective, _provenance(cases), setup)


def unrecorded(case: Case) -> list[PostStepSettings]:
    """What of the deployed scores is not recorded: post-steps that lack the same seeds are measured together."""
    lacking: dict[tuple[int, ...], list[str]] = {}
    for name in case.deployed.post_steps:
        trains, known = parse_post_step(name).trains, case.recorded.get(name, Recorded()).columns
        seeds = [seed for seed in case.deployed.seeds if (seed if trains else None) not in known]
        lacking.setdefault(tuple(seeds), []).append(name)
    return [replace(case.deployed, post_steps=tuple(names), seeds=seeds) for seeds, names in lacking.items() if seeds]


def with_recorded(name: str, measured: Score | None, recorded: Recorded | None) -> Score:
    """A deployed score from the columns that were measured and those that were recorded, in this order."""
    if recorded is None or not recorded.columns:
        assert measured is not None
        return measured
    seeds = [seed for seed in recorded.columns if seed is not None]
    columns = np.stack(list(recorded.columns.values()), axis=1)
    if measured is None:
        return Score(
            name,
            "measured",
            columns,
            tuple(seeds),
            preparation=recorded.preparation,
            certification=math.nan,
            recorded=columns.shape[1],
        )
    return replace(
        measured,
        values=np.hstack([measured.values, columns]),
        seeds=(*measured.seeds, *seeds),
        recorded=columns.shape[1],
    )


def _free_scores(problem: Problem, policies: Sequence[Policy]) -> dict[str, NDArray[np.float64]]:
    """The scores :data:`FREE`, each of shape ``(policies, 1)``; bits are averaged over the layers that are not pinned."""
    space = problem.space
    macs = np.array([layer.macs for layer in space.layers])
    weights, inputs = (np.array([getattr(policy, part) for policy in policies]) for part in ("weights", "activations"))
    costs = np.array([problem.bops(policy) for policy in policies], dtype=np.float64)
    shares = [(bits == space.choices[0]) @ macs / macs.sum() for bits in (weights, inputs)]
    means = [bits[:, free].mean(axis=1) for bits, free in zip((weights, inputs), space.free, strict=True)]
    columns = [costs, *means, *shares]
    return {name: column[:, None] for name, column in zip(FREE, columns, strict=True)}


def _predict(name: str, made: Sequence[PlannedSearcher], cases: Sequence[Case]) -> tuple[list[Score], int]:
    """Predicted losses at each budget, the least of which is the best, and the forward passes of all probes.

    Args:
        name: The planning method.
        made: Its searcher for each seed, on the problem of the first budget. The others share its prediction unless that depends
            on the budget.
        cases: The budgets.
    """
    scores, passes, seeds = [], 0, tuple(searcher.seed for searcher in made)
    for number, case in enumerate(cases):
        searchers = list(made)
        if number and any(searcher.depends_on_budget for searcher in made):
            searchers = [make_methods(case.problem, [name], seed)[name] for seed in seeds]
        meter = searchers[0].problem.meter
        before = meter.forward_passes
        losses = [[searcher.prediction.loss(policy) for searcher in searchers] for policy in case.policies]
        passes += meter.forward_passes - before
        scores.append(Score(name, "predicted", -np.array(losses), seeds))
    return scores, passes


def _measured(comparison: PostStepComparison, name: str, objective: Objective) -> Score:
    """The exams after one post-step as a score."""
    exams = comparison.exams[name]
    every = list(itertools.chain(*exams))
    for outcome in every:
        check_same_exam(outcome, comparison.reference)
    images = [[image_scores(outcome, objective) for outcome in row] for row in exams] if objective.per_image else None
    certified = [certification_passes(outcome) for outcome in every]
    made = [outcome.metrics.forward_passes - passes for outcome, passes in zip(every, certified, strict=True)]
    return Score(
        name=name,
        kind="measured",
        values=np.array([[exam_score(outcome, objective) for outcome in row] for row in exams]),
        seeds=tuple(comparison.provenance["seeds"]) if parse_post_step(name).trains else (),
        images=None if images is None else np.array(images),
        preparation=float(np.mean(made)),
        certification=float(np.mean(certified)),
    )


def certification_passes(outcome: Outcome) -> int:
    """Forward passes of an exam itself: every image without noise, then the samples of its certificate."""
    return len(outcome.labels) + int(outcome.certificates.forward_passes.sum())


def _provenance(cases: Sequence[Case]) -> dict[str, Any]:
    """What was measured, JSON-ready; of several budgets, what differs between them is in a list ``budgets``."""
    first = cases[0]
    known: dict[str, Any] = {
        **first.problem.provenance(),
        "post_steps": list(first.deployed.post_steps),
        "policies": _dicts(first.policies),
        "seeds": list(first.deployed.seeds),
        "exam": first.deployed.exam.to_dict(),
        "steps": first.deployed.steps,
        **software(),
        "cheap_exam": first.cheap.exam.to_dict(),
        "cheap_seeds": list(first.cheap.seeds),
    }
    if len(cases) == 1:
        return known
    budgets = [case.problem.budget.to_dict() | {"policies": _dicts(case.policies)} for case in cases]
    return {key: value for key, value in known.items() if key not in budgets[0]} | {"budgets": budgets}


def _dicts(policies: Iterable[Policy]) -> list[dict[str, Any]]:
    return [policy.to_dict() for policy in policies]
