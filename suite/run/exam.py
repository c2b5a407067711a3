"""Held-out certification, the exam: winners certified on images and noise that no search has seen."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from suite.certify import NoisyImages, Task
from suite.certify.exam import ExamSettings
from suite.certify.sampling import Progress
from suite.contract.cost import float_bops
from suite.contract.problem import Problem
from suite.contract.space import Policy
from suite.data import ImageSplit
from suite.errors import BitcertError
from suite.execute.executor import Executor
from suite.kept import KeptState, kept_beside, remove_kept
from suite.measure import measure, measure_constant
from suite.networks import network_sha256
from suite.problems.vision import warn_if_unreachable
from suite.protocols import NoPostStep, PostStep, Prepared, Request, parse_post_step, protocol_for
from suite.quantize import EXACT_ENGINES
from suite.quantize.integer import OnnxNetwork
from suite.run.outcomes import write_outcome
from suite.run.provenance import software
from suite.run.records import Outcome
from suite.seeds import derive_seed
from suite.workbench import Workbench, bench_problem, workbench_of

_PURPOSE = "images to hold an exam on"


def examine(
    problem: Problem,
    policy: Policy | None,
    post_step: str | PostStep = "none",
    *,
    exam: ExamSettings | None = None,
    finetune_steps: int | None = None,
    seed: int = 0,
    state: Path | None = None,
    progress: Progress | None = None,
    on_step: Callable[[int], None] | None = None,
    deployed: nn.Module | None = None,
) -> Outcome:
    """Certify a policy, or the float network, on exam images with the exam's own noise stream.

    All exams of a problem see the same images and the same noise, so that two outcomes can be compared image by image. An
    interrupted exam with a ``state`` resumes where that was written, and ends as if it had never stopped; its seconds are those
    of all calls, without what was lost.

    Args:
        problem: Where network, images, sigma and seed come from.
        policy: A feasible policy; None for the float network, which takes no post-step.
        post_step: What the policy goes through before the exam, by name or in full.
        exam: Images, n0, n, alpha and arithmetic; the problem's default if None. Exact arithmetic is for integer networks only.
        finetune_steps: Finetuning of a policy that takes no post-step; as in the problem's search if None.
        seed: Seed of the order and noise of any training.
        state: Folder in which finished optimizer steps and counted images are kept, twice a minute; the caller removes it
            (:func:`.remove_kept`) once the outcome is safe. None to keep nothing.
        progress: Called with forward passes of the certification made since the last call, those of earlier calls included.
        on_step: Called with the number of finished optimizer steps of the post-step.
        deployed: The policy's network as it was deployed after the post-step, in place of one that is prepared here.

    Raises:
        BitcertError: If the problem has no images, the policy is not feasible, the post-step is unknown, the split has fewer
            images than asked for, or the arithmetic is exact and the network does not compute with integers only, or the images
            are on no grid; or if ``state`` is damaged or of another exam.
    """
    found = bench_problem(problem, _PURPOSE)
    bench = found.bench
    step = parse_post_step(post_step) if isinstance(post_step, str) else post_step
    if policy is None:
        step = NoPostStep()
    settings = exam or default_exam(problem)
    steps = problem.fidelity.finetune_steps if finetune_steps is None else finetune_steps
    if settings.exact and policy is None:
        raise BitcertError(
            "exact arithmetic certifies integer networks, and the float network is none; examine a policy"
        )
    settings.certifier.check_installed()
    levels = _levels(bench, settings, engine=bench.engine if deployed is None else "onnx")
    split, certifier = bench.exam_images(settings), settings.certifier
    if certifier.exam_limited_by_samples:
        warn_if_unreachable(problem, settings.n, settings.alpha)
    started = problem.clock.now()
    noisy = bench.noisy(split, derive_seed(bench.seed, "exam"), levels=levels)
    applied = step.to_dict() | {"seed": seed}
    kept = None
    if state is not None:
        what = {"problem": problem.provenance(), "policy": None if policy is None else policy.to_dict()}
        kept = KeptState(state, {**what, "post_step": applied, "finetune_steps": steps}, problem.clock.now)
    with bench.fixed_threads():
        if policy is None:
            prepared, bops = Prepared(bench.executed_by_engine(None)), float_bops(problem.space)
        else:
            problem.check_feasible(policy)
            request = Request(protocol_for(found.protocol, steps), steps, seed, kept, on_step)
            bops = problem.bops(policy)
            prepared = step.deploy(bench, policy, request) if deployed is None else Prepared(deployed)
        counted = None
        if kept is not None:
            counted = kept.part("exam", "exam", lambda: _identity(settings, prepared.network, noisy))
        task = Task(noisy, split.labels, bench.radii, settings.n0, settings.n, settings.alpha, progress, counted)
        metrics, measured = measure(
            prepared,
            certifier.examine,
            task,
            found.setup,
            bops=bops,
            method=settings.method,
            clock=problem.clock,
            started=started,
        )
        if policy is not None:
            metrics = replace(metrics, costs=problem.costs(policy))
        if kept is not None:
            metrics = replace(metrics, seconds=kept.seconds + metrics.seconds)
        constant = measure_constant(certifier.examine, task, found.setup, method=settings.method, clock=problem.clock)
    assert measured.certificates is not None
    provenance = problem.provenance() | {"exam": settings.to_dict(), **software(), "post_step": applied}
    if policy is not None and deployed is None:
        provenance["preparation_passes"] = prepared.forward_passes
    if policy is not None and not step.trains:
        provenance["finetune_steps"] = steps
    if prepared.record:
        provenance["post_step_record"] = prepared.record
    return Outcome(
        policy=policy,
        post_step=step.name,
        metrics=metrics,
        certificates=measured.certificates,
        labels=split.labels,
        image_ids=split.ids,
        provenance=provenance,
        set_certificate=measured.set_certificate,
        constant=problem.objective.score(constant),
    )


def _identity(settings: ExamSettings, network: nn.Module, noisy: NoisyImages) -> dict[str, Any]:
    """What the counts of an exam depend on, beside problem, policy and post-step."""
    return {
        "exam": settings.to_dict(),
        "network": network.sha256 if isinstance(network, OnnxNetwork) else network_sha256(network),
        "images": hashlib.sha256(noisy.pixels.cpu().numpy().tobytes() + noisy.ids.tobytes()).hexdigest(),
        "noise": [noisy.seed, noisy.sigma, noisy.batch, noisy.pixels.device.type],
    }


@dataclass(frozen=True, slots=True)
class ExamCase:
    """One exam to be held; ``replicate`` is that of the problem, the other fields are arguments of :func:`examine`."""

    policy: Policy | None
    post_step: PostStep = field(default_factory=NoPostStep)
    seed: int = 0
    finetune_steps: int = 0
    replicate: int | None = None


def missing_exams(cases: Mapping[Path, ExamCase]) -> dict[Path, ExamCase]:
    """Those whose outcome is not written yet; what a stop right after writing has left of the others' state is removed."""
    for file in cases:
        if file.exists():
            remove_kept(kept_beside(file))
    return {file: case for file, case in cases.items() if not file.exists()}


def hold_exams(
    runner: Executor,
    problem: Problem,
    exam: ExamSettings,
    cases: Mapping[Path, ExamCase],
    on_exam: Callable[[Outcome], None],
) -> None:
    """Hold exams on an executor and write each outcome to its file as soon as it is there; interrupted ones resume.

    In exact arithmetic, float networks are certified in floating point: they have no integer form.
    """
    files = list(cases)
    if exam.certifier.uses_scores:  # made here, once for all workers
        for replicate in {case.replicate for case in cases.values()}:
            judged = problem if replicate is None else problem.replicate(replicate)
            bench_problem(judged, _PURPOSE).setup.scores(len(exam_images(judged, exam)), exam.n, exam.alpha)
    work = [(case, kept_beside(file)) for file, case in cases.items()]
    for position, outcome in runner.map(_examine, (problem, exam), work):
        write_outcome(outcome, files[position])
        remove_kept(work[position][1])
        on_exam(outcome)


def _examine(shared: tuple[Problem, ExamSettings], work: tuple[ExamCase, Path]) -> Outcome:
    (problem, exam), (case, state) = shared, work
    arguments = {name: getattr(case, name) for name in ExamCase.__slots__}
    replicate = arguments.pop("replicate")
    if case.policy is None:
        exam = replace(exam, arithmetic="float")
    return examine(problem if replicate is None else problem.replicate(replicate), exam=exam, state=state, **arguments)


def default_exam(problem: Problem, split: str = "exam") -> ExamSettings:
    """The problem's exam, on all images of the split if it has fewer than the exam asks for; reads the data."""
    bench = workbench_of(problem, _PURPOSE)
    enough = bench.exam.images is not None and bench.exam.images <= len(bench.dataset.splits[split])
    return replace(bench.exam, split=split, images=bench.exam.images if enough else None)


def exam_images(problem: Problem, exam: ExamSettings) -> ImageSplit:
    """The images of an exam; reads the data.

    Raises:
        BitcertError: If there are fewer than asked for.
    """
    return workbench_of(problem, _PURPOSE).exam_images(exam)


def check_exam(problem: Problem, exam: ExamSettings) -> None:
    """Check that policies can be examined; reads the data.

    Raises:
        BitcertError: If there are fewer images than asked for, the certifier needs a package that is not installed, or the
            arithmetic is exact and the engine or the images do not allow it.
    """
    exam.certifier.check_installed()
    bench = workbench_of(problem, _PURPOSE)
    bench.exam_images(exam)
    _levels(bench, exam, engine=bench.engine)


def _levels(bench: Workbench, exam: ExamSettings, *, engine: str) -> int | None:
    """Levels of the images in exact arithmetic, else None."""
    if not exam.exact:
        return None
    if engine not in EXACT_ENGINES:
        raise BitcertError(
            f"exact arithmetic certifies integer networks, and the engine {engine} computes in floating point; choose the engine "
            f"{' or '.join(EXACT_ENGINES)}"
        )
    if bench.dataset.levels is None:
        raise BitcertError(
            f"exact arithmetic needs images of integers divided by a number of levels, and {bench.dataset.name} states none"
        )
    return bench.dataset.levels


def exam_forward_passes(problem: Problem, exam: ExamSettings) -> int:
    """Most forward passes under noise that an exam makes; reads the data."""
    return len(exam_images(problem, exam)) * exam.certifier.most_exam_samples(exam.n0, exam.n)
