"""The exam: winners certified on images and noise that no search has seen."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from suite.certify.sampling import Progress
from suite.contract.cost import float_bops
from suite.contract.space import Policy
from suite.contract.trial import Metrics
from suite.data import ImageSplit
from suite.errors import BitcertError
from suite.execute.inline import Executor
from suite.problems.definition import ExamSettings
from suite.problems.methods import EXAMS, Setting
from suite.problems.vision import SmoothedProblem
from suite.run.outcomes import write_outcome
from suite.run.post_step import Finished, PostStep, apply_post_step, parse_post_step
from suite.run.provenance import software
from suite.run.records import Outcome
from suite.seeds import derive_seed


def examine(
    problem: SmoothedProblem,
    policy: Policy | None,
    post_step: str | PostStep = "none",
    *,
    exam: ExamSettings | None = None,
    finetune_steps: int | None = None,
    state: Path | None = None,
    progress: Progress | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Outcome:
    """Certify a policy, or the float network, on exam images with the exam's own noise stream.

    All exams of a problem see the same images and the same noise, so that two outcomes can be compared image by image.

    Args:
        problem: Where network, images, sigma and seed come from.
        policy: A feasible policy; None for the float network, which takes no post-step.
        post_step: Finetuning before the exam, by name or in full.
        exam: Images, n0, n and alpha; the problem's default if None.
        finetune_steps: Finetuning of a policy that takes no post-step; as in the problem's search if None.
        state: File that keeps the state of a post-step that can be resumed.
        progress: Called with forward passes of the certification made since the last call.
        on_step: Called with the number of finished optimizer steps of the post-step.

    Raises:
        BitcertError: If the policy is not feasible, the post-step unknown, or the split has fewer images than asked for.
    """
    step = parse_post_step(post_step) if isinstance(post_step, str) else post_step
    settings = exam or default_exam(problem)
    steps = problem.fidelity.finetune_steps if finetune_steps is None else finetune_steps
    split = exam_images(problem, settings)
    problem.warn_if_unreachable(settings.n, settings.alpha)
    started = time.perf_counter()
    with problem.fixed_threads():
        if policy is None:
            finished = Finished(problem.network, 0, {})
        else:
            problem.check_feasible(policy)
            finished = apply_post_step(problem, policy, step, finetune_steps=steps, state=state, progress=on_step)
        clean_accuracy, measured = problem.measure(
            finished.network,
            problem.noisy(split, derive_seed(problem.seed, "exam")),
            EXAMS[settings.method],
            Setting(
                split.labels,
                problem.radii,
                settings.n0,
                settings.n,
                settings.alpha,
                scores=lambda: problem.set_scores(len(split), settings.n, settings.alpha),
            ),
            progress,
        )
    assert measured.certificates is not None
    metrics = Metrics(
        clean_accuracy=clean_accuracy,
        acr=measured.acr,
        certified_accuracy=measured.certified_accuracy,
        bops=float_bops(problem.space) if policy is None else problem.bops(policy),
        forward_passes=len(split) + measured.forward_passes + finished.forward_passes,
        seconds=time.perf_counter() - started,
        alpha=settings.alpha,
        method=settings.method,
    )
    provenance = problem.provenance() | {"exam": asdict(settings), "post_step": asdict(step), **software()}
    if policy is not None and step.name == "none":
        provenance["finetune_steps"] = steps
    if finished.record:
        provenance["post_step_record"] = finished.record
    return Outcome(
        policy=policy,
        post_step="none" if policy is None else step.name,
        metrics=metrics,
        certificates=measured.certificates,
        labels=split.labels,
        image_ids=split.ids,
        provenance=provenance,
        set_certificate=measured.set_certificate,
    )


@dataclass(frozen=True, slots=True)
class ExamCase:
    """One exam to be held.

    Attributes:
        policy: What is examined; None for the float network.
        post_step: The finetuning before it.
        state: File that keeps the state of a post-step that can be resumed.
        finetune_steps: Finetuning of a policy that takes no post-step.
    """

    policy: Policy | None
    post_step: PostStep
    state: Path | None = None
    finetune_steps: int = 0


def hold_exams(
    runner: Executor,
    problem: SmoothedProblem,
    exam: ExamSettings,
    cases: Mapping[Path, ExamCase],
    on_exam: Callable[[Outcome], None],
) -> None:
    """Hold exams on an executor and write each outcome to its file as soon as it is there."""
    files = list(cases)
    if exam.method == "aggregate":
        problem.set_scores(len(exam_images(problem, exam)), exam.n, exam.alpha)  # made here, once for all workers
    for position, outcome in runner.map(_examine, (problem, exam), list(cases.values())):
        write_outcome(outcome, files[position])
        on_exam(outcome)


def _examine(shared: tuple[SmoothedProblem, ExamSettings], case: ExamCase) -> Outcome:
    problem, exam = shared
    return examine(
        problem, case.policy, case.post_step, exam=exam, finetune_steps=case.finetune_steps, state=case.state
    )


def default_exam(problem: SmoothedProblem, split: str = "exam") -> ExamSettings:
    """The problem's exam, on all images of the split where there are fewer than it asks for; reads the data."""
    settings = replace(problem.definition.exam, split=split)
    if settings.images is None or settings.images <= len(problem.dataset.splits[settings.split]):
        return settings
    return replace(settings, images=None)


def exam_images(problem: SmoothedProblem, exam: ExamSettings) -> ImageSplit:
    """The images of an exam; reads the data.

    Raises:
        BitcertError: If there are fewer than asked for.
    """
    split = problem.dataset.splits[exam.split]
    if exam.images is None:
        return split
    if exam.images > len(split):
        raise BitcertError(
            f"{exam.images} {exam.split} images asked for, but {problem.definition.dataset} has {len(split)}"
        )
    first = len(split) - exam.images if exam.split == "search" else 0  # searches have seen the first ones
    return split.subset(np.arange(first, first + exam.images))


def exam_forward_passes(problem: SmoothedProblem, exam: ExamSettings) -> int:
    """Most forward passes under noise that an exam makes; reads the data."""
    return len(exam_images(problem, exam)) * (exam.n0 + exam.n)
