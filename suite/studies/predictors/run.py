"""Cheap scores and the deployed one of the same policies, on different images and with different training seeds."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

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
from suite.studies.post_steps.run import PostStepComparison, PostStepSettings, compare_post_steps
from suite.studies.predictors.design import Stratum
from suite.studies.sensitivity.run import make_methods

FREE = (
    "BOPs",
    "mean weight bits",
    "mean input bits",
    "MACs at the fewest weight bits",
    "MACs at the fewest input bits",
)
"""Scores that are read off a policy."""


@dataclass(frozen=True, slots=True, eq=False)
class Score:
    """One score of all policies.

    Attributes:
        name: Post-step, planning method, or one of :data:`FREE`.
        kind: Whether it is measured, predicted by a planning method, or free.
        values: Shape ``(policies, seeds)``, the more the better but for :data:`FREE`; one column without seeds.
        seeds: Of training or of probes; empty where neither is made.
        images: The part of each image in ``values``, shape ``(policies, seeds, images)``, where it is known.
        forward_passes: What it took for all policies together.
    """

    name: str
    kind: Literal["measured", "predicted", "free"]
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
    policies: Mapping[Policy, Stratum],
    cheap: PostStepSettings,
    deployed: PostStepSettings,
    directory: Path,
    *,
    predictors: Sequence[str] = (),
    executor: str = "inline",
    resources: Resources | None = None,
    on_start: Callable[[str, int], object] = lambda *_: None,
    on_exam: Callable[[str], None] = lambda _: None,
) -> Predictors:
    """Score policies cheaply and as deployed; a directory with the same study is resumed.

    Args:
        problem: A network and its data.
        policies: What is scored, with strata; see :func:`suite.studies.predictors.design.design_policies`.
        cheap: The measured cheap scores of these policies. With the seeds and the images of ``deployed``, scores would agree
            by chance that they share.
        deployed: The one score that is predicted.
        directory: Where the exams go, one file each, in folders ``cheap`` and ``deployed``.
        predictors: Planning methods whose predicted losses are scores, too, one probe for each seed of ``cheap``.
        executor: ``"inline"`` or ``"ray"``; equal results.
        resources: For the Ray executor.
        on_start: Called with ``"cheap"`` or ``"deployed"``, and the number of exams still to be held.
        on_exam: Called with the same word after each.

    Raises:
        BitcertError: If a method predicts no losses, images are missing, or the directory holds something else.
    """
    check_exam(problem, deployed.exam)
    made = [make_methods(problem, predictors, seed) for seed in cheap.seeds]

    def measure(part: str, settings: PostStepSettings) -> PostStepComparison:
        return compare_post_steps(
            problem,
            settings,
            directory / part,
            executor=executor,
            resources=resources,
            on_start=lambda exams: on_start(part, exams),
            on_exam=lambda _: on_exam(part),
        )

    measured, target = measure("cheap", cheap), measure("deployed", deployed)
    scores = [Score(name, "free", values) for name, values in _free_scores(problem, list(policies)).items()]
    scores += [_predicted(problem, name, [seeded[name] for seeded in made], policies) for name in predictors]
    scores += [_measured(measured, name) for name in cheap.post_steps]
    return Predictors(
        policies=policies,
        cheap=tuple(scores),
        deployed=_measured(target, deployed.post_steps[0]),
        objective=target.objective,
        provenance={**target.provenance, "cheap_exam": cheap.exam.to_dict(), "cheap_seeds": list(cheap.seeds)},
    )


def _free_scores(problem: Problem, policies: Sequence[Policy]) -> dict[str, NDArray[np.float64]]:
    """The scores :data:`FREE`, each of shape ``(policies, 1)``; bits are averaged over the layers that are not pinned."""
    space = problem.space
    macs = np.array([layer.macs for layer in space.layers])
    free = np.array([layer.name not in space.pinned for layer in space.layers])
    weights, inputs = (np.array([getattr(policy, part) for policy in policies]) for part in ("weights", "activations"))
    costs = np.array([problem.bops(policy) for policy in policies], dtype=np.float64)
    shares = [(bits == space.choices[0]) @ macs / macs.sum() for bits in (weights, inputs)]
    columns = [costs, weights[:, free].mean(axis=1), inputs[:, free].mean(axis=1), *shares]
    return {name: column[:, None] for name, column in zip(FREE, columns, strict=True)}


def _predicted(problem: Problem, name: str, searchers: Sequence[PlannedSearcher], policies: Iterable[Policy]) -> Score:
    """Predicted losses, the least of which is the best, from the probes of each seed."""
    before = problem.meter.forward_passes
    seeds = tuple(searcher.seed for searcher in searchers)
    losses = [[searcher.prediction.loss(policy) for searcher in searchers] for policy in policies]
    return Score(name, "predicted", -np.array(losses), seeds, None, problem.meter.forward_passes - before)


def _measured(comparison: PostStepComparison, name: str) -> Score:
    """The exams after one post-step as a score."""
    exams, objective = comparison.exams[name], comparison.objective
    every = list(itertools.chain(*exams))
    for outcome in every:
        check_same_exam(outcome, comparison.reference)
    images = [[image_scores(outcome, objective) for outcome in row] for row in exams] if objective.per_image else None
    return Score(
        name=name,
        kind="measured",
        values=np.array([[exam_score(outcome, objective) for outcome in row] for row in exams]),
        seeds=tuple(comparison.provenance["seeds"]) if parse_post_step(name).trains else (),
        images=None if images is None else np.array(images),
        forward_passes=sum(outcome.metrics.forward_passes for outcome in every),
    )
