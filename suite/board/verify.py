"""Verification of entries: costs again, the network again, certificates again with fresh noise, and what does not fit."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr
from torch import nn

from suite.board.certificates import certificates_of, rows_of
from suite.board.make import described, planned_passes, protocol_name
from suite.board.rebuild import PURPOSE, file_sha256, quantized_network, stored_network
from suite.board.recertify import Verdict, compare_bounds, compare_counts
from suite.board.schema import VERSION, BoardEntry, Verification, weights_of
from suite.certify import ABSTAIN, Certificates, Task, clopper_pearson_lower
from suite.certify.exam import ExamSettings
from suite.certify.sampling import Progress, predict
from suite.contract.cost import float_bops
from suite.contract.problem import Problem
from suite.data import ImageSplit
from suite.errors import BitcertError
from suite.measure import measure_constant
from suite.plugins import registered_alone
from suite.run.provenance import software
from suite.seeds import derive_seed
from suite.workbench import BenchProblem, bench_problem

IMAGES, SAMPLES, ERROR_RATE, LARGEST_ALPHA, FEWEST_IMAGES = 100, 1_000, 1e-4, 1e-3, 100
_TOLERANCE = 1e-9
_CLEAN_SLACK = 0.005  # share of images whose clean prediction may differ: sums in floating point depend on the machine
_MACHINE = ("device", "batch", "threads")
_STEADY = ("ranking", "fixed", "aggregate")
"""Certifiers of searches whose evaluations all cost the same."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How thoroughly an entry is verified.

    Attributes:
        images: Certificates that are checked with fresh noise; None for all.
        samples: Fresh noise samples of each; None for the entry's n, at most 1,000.
        seed: Of the fresh noise and of the choice of images. Nobody should know it beforehand.
        error_rate: Probability of rejecting an honest entry, at most.
    """

    seed: int
    images: int | None = IMAGES
    samples: int | None = None
    error_rate: float = ERROR_RATE

    def __post_init__(self) -> None:
        counts = [count for count in (self.images, self.samples) if count is not None]
        if min([1, *counts]) < 1 or self.seed < 0 or not 0 < self.error_rate < 1:
            raise BitcertError(
                "a verification needs at least one image and one sample, a seed that is not negative and an error rate between 0 "
                f"and 1, got {self}"
            )


Repeat = Callable[[BoardEntry, BenchProblem], list[str]]
"""What repeats the search of an entry and says what came out differently."""


def verify_entry(
    entry: BoardEntry,
    path: Path,
    problem: Problem,
    effort: Effort,
    *,
    repeat: Repeat | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Verify an entry.

    Nothing of the entry is executed: its policy and weights are numbers that this function puts into its own network.

    Args:
        entry: What is claimed.
        path: Its file, beside which its weights are.
        problem: The problem that it names.
        effort: How thoroughly.
        repeat: Repeats the search; None leaves it.
        progress: Called with forward passes since the last call.

    Returns:
        What was found; ``reasons`` says everything that speaks against the entry.
    """
    bench = bench_problem(problem, PURPOSE)
    with registered_alone():  # the entry chooses among certifiers, it brings none
        try:
            _settings(entry)
        except BitcertError as error:
            reasons = [str(error)]
        else:
            reasons = [*_task_reasons(entry, bench)]
    checked, samples, verdict, agreement = 0, 0, None, None
    if not reasons:  # else its numbers are about something else
        reasons += [*_cost_reasons(entry, bench), *_spend_reasons(entry, bench), *_row_reasons(entry, bench)]
    if not reasons:
        try:
            network = _network(entry, path, bench)
        except BitcertError as error:
            reasons.append(str(error))
        else:
            reasons += _constant_reasons(entry, bench)
            checked, samples, verdict, agreement, found = _recertify(entry, network, bench, effort, progress)
            reasons += found
    if repeat is not None and not reasons:
        reasons += repeat(entry, bench)
    made = software()
    return Verification(
        version=VERSION,
        entry=entry.sha256,
        accepted=not reasons,
        reasons=reasons,
        images=checked,
        samples=samples,
        seed=effort.seed,
        error_rate=effort.error_rate,
        p_value=None if verdict is None else verdict.p_value,
        agreement=agreement,
        full=repeat is not None,
        software=made["versions"],
        commit=made["commit"],
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
    )


def _task_reasons(entry: BoardEntry, problem: BenchProblem) -> Iterator[str]:
    """Whether it is about the problem that it names, as this bitcert knows it, and was examined as the board asks."""
    task, own, sampled = entry.problem, described(problem), _settings(entry).certifier.samples
    names = [name for name in sorted(task.record.keys() | own.keys()) if name not in _MACHINE]
    if different := [name for name in names if task.record.get(name) != own.get(name)]:
        yield f"the problem's record differs from {problem.name} as it is here in {', '.join(different)}"
    expected = {
        "name": problem.name,
        "budget": problem.budget.text,
        "sigma": problem.bench.sigma,
        "objective": problem.objective.text,
        "protocol": protocol_name(problem, entry.spend.fidelity.finetune_steps),
        "norm": "l2" if sampled else "linf",
        "guarantee": "probabilistic" if sampled else "deterministic",
    }
    for name, value in expected.items():
        if getattr(task, name) != value:
            yield f"{name} is {getattr(task, name)!r}, the problem says {value!r}"
    if own["problem_seed"] != 0:
        yield f"it has seed {own['problem_seed']} of the problem; held-out images and noise of the board are those of seed 0"
    if entry.hashes.network != own["network_sha256"] or entry.hashes.data != own["data_sha256"]:
        yield "its hashes are not those of the problem's network and images"
    if entry.exam.split != "exam":
        yield f"it was certified on {entry.exam.split} images, which searches see; the board wants held-out ones"
    if task.guarantee == "probabilistic" and not 0 < entry.exam.alpha <= LARGEST_ALPHA:
        yield f"alpha is {entry.exam.alpha:g}; the board wants at most {LARGEST_ALPHA:g}"


def _cost_reasons(entry: BoardEntry, problem: BenchProblem) -> Iterator[str]:
    """Whether the policy is of the space and within the budget, and costs what is said."""
    policy, results = entry.policy.policy(), entry.results
    if policy not in problem.space:
        yield "the policy does not belong to the problem's space"
        return
    if not problem.is_feasible(policy):
        yield f"the policy exceeds the budget {problem.budget.text}: {problem.bops(policy):,} BOPs"
    costs = {"bops": problem.bops(policy), **problem.costs(policy)}
    if results.costs != costs:
        yield f"costs are {dict(results.costs)}, the policy's are {costs}"
    share = problem.bops(policy) / float_bops(problem.space)
    if not math.isclose(results.bops_share, share, rel_tol=_TOLERANCE):
        yield f"the share of the float network's BOPs is {results.bops_share:.6g}, the policy's {share:.6g}"


def _spend_reasons(entry: BoardEntry, problem: BenchProblem) -> Iterator[str]:
    """Whether the search's forward passes follow from what it says it did."""
    spend = entry.spend
    if spend.finalists > spend.evaluations or (spend.finalists > 0) != (spend.second is not None):
        yield f"{spend.finalists} second measurements among {spend.evaluations} evaluations do not fit"
        return
    passes = (spend.evaluations - spend.finalists) * planned_passes(problem, spend.fidelity)
    if spend.second is not None:
        passes += spend.finalists * planned_passes(problem, spend.second)
    planned = passes + spend.probe_passes + spend.other_passes
    steady = str(problem.provenance().get("certify")).partition(":")[0] in _STEADY
    if spend.forward_passes > planned or (steady and spend.forward_passes != planned):
        yield f"the search's parts add up to {planned:,} forward passes, it claims {spend.forward_passes:,}"


def _row_reasons(entry: BoardEntry, problem: BenchProblem) -> Iterator[str]:
    """Whether the rows are of the held-out images, and the averages follow from them."""
    rows, results = entry.images, entry.results
    try:
        split, found = _images(entry, problem), certificates_of(entry)
    except BitcertError as error:
        yield str(error)
        return
    if rows.id != split.ids.tolist() or rows.label != split.labels.tolist():
        yield "its rows are not the held-out images of the problem, or not their labels"
        return
    if rows_of(found, rows.label, rows.id, _settings(entry)) != rows and rows.successes is not None:
        yield "its predictions do not follow from its counts: a bound of at most 1/2 abstains"
    if ((found.prediction == ABSTAIN) & (found.radius > 0)).any():
        yield "it abstains with a radius above 0"
    if rows.radius is not None and (mistake := _radius_mistake(entry, found)):
        yield mistake
    radii = [float(radius) for radius in results.certified_accuracy]
    if sorted(radii) != sorted(problem.bench.radii):
        yield f"certified accuracy is reported at {radii}, the problem asks for {list(problem.bench.radii)}"
    labels = np.array(rows.label)
    wanted = {"ACR": (results.acr, found.acr(labels))}
    shares = found.certified_accuracy(labels, radii)
    for text, share in results.certified_accuracy.items():
        wanted[f"certified accuracy at {text}"] = (share, shares[float(text)])
    for name, (claimed, follows) in wanted.items():
        if abs(claimed - follows) > _TOLERANCE * max(1.0, follows):
            yield f"{name} is given as {claimed:.6g}; {follows:.6g} follows from the rows"
    if results.forward_passes < int(found.forward_passes.sum()):
        yield f"the exam claims {results.forward_passes:,} forward passes, its rows have {found.forward_passes.sum():,}"


def _radius_mistake(entry: BoardEntry, found: Certificates) -> str | None:
    """Whether radii follow from bounds, where rows give both."""
    if entry.problem.guarantee == "deterministic":
        return None if (found.p_lower == 1).all() else "bounds of certificates without noise are not 1"
    needed = ndtr(found.radius / entry.problem.sigma)
    too_far = (found.radius > 0) & (needed > found.p_lower + _TOLERANCE)
    return "radii exceed what their bounds certify" if too_far.any() else None


def _network(entry: BoardEntry, path: Path, problem: BenchProblem) -> nn.Module:
    policy, weights = entry.policy.policy(), weights_of(path)
    if entry.hashes.weights is None:
        if (
            entry.post_step.name != "none"
            or entry.spend.fidelity.finetune_steps
            or entry.problem.protocol.partition(":")[0] != "ptq"
        ):
            raise BitcertError("its network was trained, and its weights are missing")
        return quantized_network(problem, policy)
    if file_sha256(weights) != entry.hashes.weights:
        raise BitcertError(f"{weights.name} is not the file of weights that the entry names: its hash differs")
    return stored_network(problem, policy, weights)


def _constant_reasons(entry: BoardEntry, problem: BenchProblem) -> Iterator[str]:
    """Whether the score of a constant classifier is the one that is given."""
    exam = _settings(entry)
    task = _task(problem, _images(entry, problem), exam, derive_seed(problem.bench.seed, "exam"))
    measured = measure_constant(exam.certifier.examine, task, problem.setup, method=exam.method, clock=problem.clock)
    score, given = problem.objective.score(measured), entry.results.constant
    if given is None or abs(given - score) > _TOLERANCE * max(1.0, score):
        yield f"the score of a constant classifier is given as {given}, it is {score:.6g}"


def _recertify(
    entry: BoardEntry, network: nn.Module, problem: BenchProblem, effort: Effort, progress: Progress | None
) -> tuple[int, int, Verdict | None, float | None, list[str]]:
    """Check clean accuracy and a random part of the certificates; returns images, samples, verdict, agreement and reasons."""
    found, split, exam = certificates_of(entry), _images(entry, problem), _settings(entry)
    reasons = [*_clean_reasons(entry, network, problem, split)]
    rng = np.random.default_rng(derive_seed(effort.seed, "chosen images"))
    count = len(split) if effort.images is None else min(effort.images, len(split))
    drawn = rng.choice(len(split), count, replace=False)
    chosen = np.sort(drawn[found.prediction[drawn] != ABSTAIN])
    if len(chosen) == 0:
        return 0, 0, None, None, reasons
    part = split.subset(chosen)
    if entry.problem.guarantee == "deterministic":
        task = _task(problem, part, exam, 0, progress)
        with problem.bench.fixed_threads():
            again = exam.certifier.examine(network, task, problem.setup).certificates
        assert again is not None
        same = (again.prediction == found.prediction[chosen]) & (again.radius == found.radius[chosen])
        if not same.all():
            reasons.append(f"{int((~same).sum())} of {len(chosen)} certificates without noise come out differently")
        return len(chosen), 0, None, float(same.mean()), reasons
    samples = min(exam.n, SAMPLES) if effort.samples is None else effort.samples
    task = _task(problem, part, exam, derive_seed(effort.seed, "verification"), progress)
    with problem.bench.fixed_threads():
        counts = task.sampler(network).counts("count", 0, samples)
    fresh: NDArray[np.int64] = counts[np.arange(len(chosen)), found.prediction[chosen]].astype(np.int64)
    if entry.images.successes is not None:
        claimed = np.array(entry.images.successes)[chosen]
        bounds = clopper_pearson_lower(np.arange(exam.n + 1), exam.n, exam.alpha)
        least = int(np.searchsorted(bounds, 0.5, side="right"))
        verdict = compare_counts(claimed, exam.n, fresh, samples, effort.error_rate, least)
    else:
        needed = ndtr(found.radius[chosen] / entry.problem.sigma)
        verdict = compare_bounds(needed, exam.alpha, fresh, samples, effort.error_rate, count)
    agreement = float((counts.argmax(axis=1) == found.prediction[chosen]).mean())
    return len(chosen), samples, verdict, agreement, [*reasons, *verdict.reasons]


def _clean_reasons(entry: BoardEntry, network: nn.Module, problem: BenchProblem, split: ImageSplit) -> Iterator[str]:
    bench = problem.bench
    with bench.fixed_threads():
        clean = predict(network, bench.noisy(split, 0).pixels, batch=bench.batch).cpu().numpy()
    share, slack = float(np.mean(clean == split.labels)), max(1.0, _CLEAN_SLACK * len(split)) / len(split)
    if abs(share - entry.results.clean_accuracy) > slack + _TOLERANCE:
        yield f"clean accuracy is given as {entry.results.clean_accuracy:.4f}, it is {share:.4f}"


def _task(
    problem: BenchProblem,
    split: ImageSplit,
    exam: ExamSettings,
    seed: int,
    progress: Progress | None = None,
) -> Task:
    levels = problem.bench.dataset.levels if exam.exact else None
    noisy = problem.bench.noisy(split, seed, levels=levels)
    return Task(noisy, split.labels, problem.bench.radii, exam.n0, exam.n, exam.alpha, progress=progress)


def _settings(entry: BoardEntry) -> ExamSettings:
    content: dict[str, Any] = entry.exam.model_dump()
    return ExamSettings(**content)


def _images(entry: BoardEntry, problem: BenchProblem) -> ImageSplit:
    """The first held-out images of the problem, which are enough for the board."""
    whole = len(problem.bench.exam_images(replace(_settings(entry), images=None)))
    if entry.exam.images < min(FEWEST_IMAGES, whole):
        raise BitcertError(f"it has {entry.exam.images} held-out images; the board wants at least {FEWEST_IMAGES}")
    return problem.bench.exam_images(_settings(entry))
