"""Cheap scores and the deployed one of the same policies, measured on different images and with different training seeds."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suite.certify.exam import ExamSettings
from suite.contract.objective import Objective
from suite.contract.problem import Problem
from suite.contract.space import Policy
from suite.execute.executor import Resources
from suite.protocols import parse_post_step
from suite.report.exams import check_same_exam, exam_score, image_scores
from suite.run.exam import exam_images
from suite.studies.post_steps.run import PostStepComparison, PostStepSettings, compare_post_steps
from suite.studies.predictors.design import Stratum, design_policies
from suite.studies.sensitivity.run import make_methods

FREE = ("BOPs", "mean weight bits", "mean input bits", "MACs at the fewest weight bits", "MACs at the fewest input bits")
"""Scores that are read off a policy."""


@dataclass(frozen=True, slots=True)
class PredictorSettings:
    """What is studied.

    Attributes:
        cheap: Post-steps after which every policy is scored, to predict the deployed score.
        deployed: The post-step whose score is predicted.
        predictors: Planning methods whose predicted losses are scores, too.
        policies: How many policies are drawn; see :func:`suite.studies.predictors.design.design_policies`.
        within: Width of the band below the budget.
        seeds: Of training and of the methods' probes.
        seed: Of the draws.
        cheap_exam, exam: How policies are certified for the cheap scores, and for the deployed one.
    """

    cheap: tuple[str, ...]
    deployed: str
    predictors: tuple[str, ...]
    policies: int
    within: float
    seeds: tuple[int, ...]
    seed: int
    cheap_exam: ExamSettings
    exam: ExamSettings


@dataclass(frozen=True, slots=True, eq=False)
class Score:
    """One score of all policies.

    Attributes:
        name: Post-step, planning method, or one of :data:`FREE`.
        kind: ``"free"``, ``"predicted"`` or ``"measured"``.
        values: Shape ``(policies, seeds)``, the more the better but for :data:`FREE`; one column without seeds.
        seeds: Of training or of probes; empty where neither is made.
        images: The part of each image in ``values``, shape ``(policies, seeds, images)``; None for what is not measured on
            images, or kept as an average only.
        forward_passes: What it took for all policies together.
    """

    name: str
    kind: str
    values: NDArray[np.float64]
    seeds: tuple[int, ...] = ()
    images: NDArray[np.float64] | None = None
    forward_passes: int = 0

    @property
    def means(self) -> NDArray[np.float64]:
        """Means over seeds, shape ``(policies,)``."""
        return np.asarray(self.values.mean(axis=1))


@dataclass(frozen=True, slots=True, eq=False)
class Predictors:
    """Cheap scores of policies that no method chose, and their deployed score.

    Attributes:
        policies: With their strata.
        cheap: The scores that may predict.
        deployed: The score that is predicted.
        objective: What all measured scores score.
        provenance: Problem, settings of the deployed score, versions and commit, JSON-ready.
    """

    policies: Mapping[Policy, Stratum]
    cheap: tuple[Score, ...]
    deployed: Score
    objective: Objective
    provenance: Mapping[str, Any]


def study_predictors(
    problem: Problem,
    settings: PredictorSettings,
    directory: Path,
    *,
    executor: str = "inline",
    resources: Resources | None = None,
    on_start: Callable[[str, int], object] = lambda *_: None,
    on_exam: Callable[[str], object] = lambda _: None,
) -> Predictors:
    """Draw policies, score them, and train and certify them as deployed; a directory with the same study is resumed.

    The cheap scores are measured after training with the seeds ``2 s``, the deployed one with ``2 s + 1``: were they equal,
    scores would agree by the chance that their training shares.

    Args:
        problem: A network and its data.
        settings: Scores, policies, seeds and exams.
        directory: Where the exams go, one file each, in folders ``cheap`` and ``deployed``.
        executor: ``"inline"`` or ``"ray"``; equal results.
        resources: For the Ray executor.
        on_start: Called with ``"cheap"`` or ``"deployed"``, and the number of exams still to be held.
        on_exam: Called with the same word after each.

    Raises:
        BitcertError: If the settings cannot be met, or the directory holds something else.
    """
    exam_images(problem, settings.exam)
    drawn = design_policies(problem, settings.policies, within=settings.within, seed=settings.seed)
    seeds = {"cheap": tuple(2 * s for s in settings.seeds), "deployed": tuple(2 * s + 1 for s in settings.seeds)}
    made = [make_methods(problem, settings.predictors, seed) for seed in seeds["cheap"]]
    methods = {name: [seeded[name] for seeded in made] for name in settings.predictors}
    wanted = {
        "cheap": PostStepSettings(settings.cheap, tuple(drawn), seeds["cheap"], settings.cheap_exam),
        "deployed": PostStepSettings((settings.deployed,), tuple(drawn), seeds["deployed"], settings.exam),
    }
    measured = {
        part: compare_post_steps(
            problem,
            asked,
            directory / part,
            executor=executor,
            resources=resources,
            on_start=lambda exams, part=part: on_start(part, exams),
            on_exam=lambda _, part=part: on_exam(part),
        )
        for part, asked in wanted.items()
    }
    scores = [Score(name, "free", values) for name, values in _free_scores(problem, list(drawn)).items()]
    for name, searchers in methods.items():
        before = problem.meter.forward_passes
        losses = np.array([[seeded.prediction.loss(policy) for seeded in searchers] for policy in drawn])
        spent = problem.meter.forward_passes - before
        scores.append(Score(name, "predicted", -losses, seeds["cheap"], forward_passes=spent))
    scores += [_measured(measured["cheap"], name) for name in settings.cheap]
    design = {name: getattr(settings, name) for name in ("within", "seed")}
    return Predictors(
        policies=drawn,
        cheap=tuple(scores),
        deployed=_measured(measured["deployed"], settings.deployed),
        objective=measured["deployed"].objective,
        provenance={**measured["deployed"].provenance, "design": design, "cheap_exam": asdict(settings.cheap_exam)},
    )


def _free_scores(problem: Problem, policies: Sequence[Policy]) -> dict[str, NDArray[np.float64]]:
    """The scores :data:`FREE`, each of shape ``(policies, 1)``; bits are averaged over the layers that are not pinned."""
    space = problem.space
    macs = np.array([layer.macs for layer in space.layers])
    free = np.array([layer.name not in space.pinned for layer in space.layers])
    weights, inputs = (np.array([getattr(p, part) for p in policies]) for part in ("weights", "activations"))
    costs = np.array([problem.bops(policy) for policy in policies], dtype=np.float64)
    shares = [(bits == space.choices[0]) @ macs / macs.sum() for bits in (weights, inputs)]
    columns = [costs, weights[:, free].mean(axis=1), inputs[:, free].mean(axis=1), *shares]
    return {name: column[:, None] for name, column in zip(FREE, columns, strict=True)}


def _measured(comparison: PostStepComparison, name: str) -> Score:
    """The exams after one post-step as a score."""
    exams, objective = comparison.exams[name], comparison.objective
    for outcome in itertools.chain(*exams):
        check_same_exam(outcome, comparison.reference)
    images = None
    if objective.per_image:
        images = np.array([[image_scores(outcome, objective) for outcome in row] for row in exams])
    return Score(
        name=name,
        kind="measured",
        values=np.array([[exam_score(outcome, objective) for outcome in row] for row in exams]),
        seeds=tuple(comparison.provenance["seeds"]) if parse_post_step(name).trains else (),
        images=images,
        forward_passes=sum(outcome.metrics.forward_passes for outcome in itertools.chain(*exams)),
    )
