"""What a study will cost: searches, evaluations, forward passes at most, and hours and memory of this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from suite.certify.certifier import exam_certifier
from suite.computing import torch_threads
from suite.contract.problem import Problem
from suite.contract.trial import Fidelity
from suite.errors import BitcertError
from suite.networks import build_network
from suite.problems.setup import select_samples
from suite.problems.tabular import TabularProblem
from suite.problems.vision import VisionProblem
from suite.protocols import PostStep, protocol_for
from suite.quantize import RANGED_ENGINES, QuantizedNetwork, calibrate
from suite.run.exam import exam_images
from suite.run.limits import FINALISTS, Limits, hold_back
from suite.studies.memory import GIB, Memory, Place, estimate_memory, find_places
from suite.studies.model import keyed
from suite.studies.settings import CertificateSettings, ExecutorSettings, ProblemSettings, SpendSettings
from suite.train.finetune import FinetuneSettings

_POST_STEP_IMAGES = 1_000
"""Training images, at most, on which a post-step recomputes batch norms and measures losses."""

_MEASURED_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What a study will cost, at most.

    Attributes:
        searches: How many there are.
        evaluations: Trials of all searches, second measurements included; None if their number is not limited.
        passes: Forward passes by part (search, post-step, exam); None where only seconds limit them.
        seconds: Wall time that each search may take, if that limits it.
        problem: Whose network the passes go through; None if neither hours nor memory can be estimated.
        executor: Where evaluations run.
        parallel: Evaluations at the same time.
        fidelity: Of the search; None for the problem's.
        exam_images: Of the largest exam.
        training: Most rows of a training step per image of its batch; 0 if nothing is trained.
        notes: What is not counted.
    """

    searches: int = 0
    evaluations: int | None = 0
    passes: Mapping[str, int | None] = field(default_factory=dict)
    seconds: float | None = None
    problem: VisionProblem | None = None
    executor: ExecutorSettings = field(default_factory=ExecutorSettings)
    parallel: int = 1
    fidelity: Fidelity | None = None
    exam_images: int = 0
    training: int = 0
    notes: tuple[str, ...] = ()

    @property
    def memory(self) -> Memory | None:
        """Estimated memory of one evaluation, training included."""
        return self._estimate(self.training)

    @property
    def places(self) -> list[Place]:
        """Where evaluations take memory, and how much there is."""
        if self.problem is None or self.memory is None:
            return []
        driver = None if self.executor.name == "inline" else self._estimate(0)
        return find_places(self.memory, driver, self.problem.device, self.executor, self.parallel)

    def _estimate(self, training: int) -> Memory | None:
        if self.problem is None:
            return None
        fidelity = self.fidelity or self.problem.fidelity
        return estimate_memory(self.problem, fidelity, exam_images=self.exam_images, training=training)

    def hours(self, rate: float) -> float:
        """Estimated wall time at so many forward passes a second in one process."""
        known = sum(count for count in self.passes.values() if count is not None)
        unknown = None in self.passes.values() and self.seconds is not None
        seconds = known / rate + (self.searches * (self.seconds or 0.0) if unknown else 0.0)
        return seconds / self.parallel / 3600


def plan_for(problem: Problem, executor: ExecutorSettings, at_once: int | None = None) -> Plan:
    """A plan without anything in it yet; ``at_once`` is the most that there is to do at a time, if that is known."""
    workers = _workers(executor)
    parallel = workers if at_once is None else min(workers, at_once)
    return Plan(problem=_defined(problem), executor=executor, parallel=parallel)


def _workers(executor: ExecutorSettings) -> int:
    if executor.name == "inline":
        return 1
    return executor.workers or max(1, int((os.cpu_count() or 1) / max(executor.cpus_per_trial, 1e-9)))


def plan_searches(
    problem: Problem,
    settings: ProblemSettings,
    spend: SpendSettings,
    executor: ExecutorSettings,
    searches: int,
    *,
    parallel: int | None = None,
) -> Plan:
    """Searches under equal spend; ``parallel`` is the number of trials at once where there is one search."""
    fidelity, limits = spend.fidelity_of(problem, settings, read=False), spend.limits
    trial = sum(evaluation_passes(problem, rung) for rung in spend.ladder(fidelity).up_to(fidelity))
    finalists = (FINALISTS if problem.estimates else 0) if spend.finalists is None else spend.finalists
    second = replace(fidelity, images=2 * fidelity.images)
    caps = []
    if limits.evaluations is not None:
        searched, again = hold_back(Limits(limits.evaluations), finalists, 0)
        caps.append((searched.evaluations or 0) * trial + again * evaluation_passes(problem, second))
    if limits.forward_passes is not None:
        caps.append(limits.forward_passes + trial)
    passes = min(caps) if caps else None
    return replace(
        plan_for(problem, executor, searches if parallel is None else parallel),
        fidelity=fidelity,
        training=int(fidelity.finetune_steps > 0),
        searches=searches,
        evaluations=None if limits.evaluations is None else searches * limits.evaluations,
        passes={"search": None if passes is None else searches * passes},
        seconds=limits.seconds,
        notes=("probes of sensitivity methods and retries come on top",),
    )


def plan_measurements(problem: Problem, fidelity: Fidelity, count: int, executor: ExecutorSettings) -> Plan:
    """So many measurements of policies."""
    passes = count * evaluation_passes(problem, fidelity)
    planned = replace(plan_for(problem, executor, count), fidelity=fidelity, training=int(fidelity.finetune_steps > 0))
    return replace(planned, evaluations=count, passes={"search": passes})


def add_exams(
    plan: Plan,
    problem: Problem,
    settings: CertificateSettings,
    split: str,
    steps: Sequence[PostStep],
    *,
    before: bool = True,
    references: int = 1,
    finetune_steps: int = 0,
) -> Plan:
    """Add exams to a plan; reads the data if no number of images was given, here or in the problem's definition.

    Args:
        plan: What comes before.
        problem: Whose network it is.
        settings: How it is certified.
        split: Images that judge.
        steps: The post-step before each exam.
        before: Whether there is another exam before each post-step.
        references: How many float networks are examined, too.
        finetune_steps: Finetuning of policies that take no post-step.
    """
    images, defined = settings.images, _defined(problem)
    if images is None and defined is not None:
        images = defined.definition.exam.images
    if images is None:
        images = len(exam_images(problem, settings.build(problem, split)))
    trained = [step for step in steps if step.trains]
    plain = len(steps) if before else len(steps) - len(trained)
    exams = plain + len(trained) + references
    with keyed("exam"):
        certifier = exam_certifier(settings.method_for(problem))
    passes = exams * images * (1 + certifier.most_exam_samples(settings.n0, settings.n))
    passes += plain * _preparation(problem, finetune_steps)
    passes += len(trained) * _engine(problem)
    parallel = min(_workers(plan.executor), max(plan.parallel, exams))
    planned = replace(plan, passes={**plan.passes, "exam": passes}, parallel=parallel)
    if not certifier.samples:
        planned = replace(planned, notes=(*plan.notes, "what solvers and attacks of exams take is not estimated"))
    planned = replace(
        planned, exam_images=max(plan.exam_images, images), training=max(plan.training, int(finetune_steps > 0))
    )
    return add_post_steps(planned, trained) if trained else planned


def add_post_steps(plan: Plan, steps: Sequence[PostStep], measured: int = 0) -> Plan:
    """Add post-steps to a plan, and measurements of losses on training images."""
    rounds = sum(asdict(step).get("captures", 0) + 5 for step in steps) + 2 * measured
    trained = sum(FinetuneSettings().forward_passes(step.steps, step.passes_per_image) for step in steps)
    passes = trained + _POST_STEP_IMAGES * rounds
    rows = max((step.rows_per_image for step in steps), default=1)
    return replace(plan, passes={**plan.passes, "post-step": passes}, training=max(plan.training, rows))


def evaluation_passes(problem: Problem, fidelity: Fidelity) -> int:
    """Most forward passes that one evaluation makes."""
    if _defined(problem) is None:
        return fidelity.images * fidelity.noise
    chosen = 0 if problem.estimates else select_samples(fidelity.noise)
    return fidelity.images * (1 + chosen + fidelity.noise) + _preparation(problem, fidelity.finetune_steps)


def _preparation(problem: Problem, finetune_steps: int) -> int:
    """Most forward passes that make the network of a policy; reads the data for a protocol from elsewhere."""
    found = _defined(problem)
    if found is None:
        return FinetuneSettings().forward_passes(finetune_steps)
    if found.protocol is not None:
        made = protocol_for(found.protocol, finetune_steps).forward_passes(found.bench, finetune_steps)
    elif finetune_steps == 0:
        made = found.definition.statistics_images
    else:
        made = FinetuneSettings().forward_passes(finetune_steps)
    return made + _engine(problem)


def _engine(problem: Problem) -> int:
    """Most forward passes that an engine makes before it executes a network."""
    found = _defined(problem)
    return 0 if found is None or found.engine not in RANGED_ENGINES else found.definition.statistics_images


def _defined(problem: Problem) -> VisionProblem | None:
    """The problem, if a definition says what its network is before data and checkpoint are read, and evaluations run it."""
    return problem if isinstance(problem, VisionProblem) and not isinstance(problem, TabularProblem) else None


def passes_per_second(problem: VisionProblem) -> float:
    """Measure for about a second how fast this machine runs a problem's quantized network.

    Neither data nor checkpoint are read: weights and images are random, which does not change how long a pass takes.
    """
    definition, layers = problem.definition, problem.space.layers
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((problem.batch, *definition.shape), generator=generator).to(problem.device)
    network = build_network(definition.network, definition.classes, definition.shape[0]).to(problem.device)
    network = network.eval().requires_grad_(False)
    with torch_threads(definition.threads), torch.no_grad():
        quantized = QuantizedNetwork(network, layers, calibrate(network, [layer.name for layer in layers], [images]))
        quantized.set_policy(problem.space.uniform(problem.space.choices[0]))
        quantized(images)  # the first pass also sets up the kernels
        count, started = 0, time.perf_counter()
        while count == 0 or time.perf_counter() - started < _MEASURED_SECONDS:
            float(quantized(images).sum())
            count += 1
    return count * len(images) / (time.perf_counter() - started)


def check_plan(plan: Plan) -> None:
    """Check that a study fits the machine, before it starts.

    Raises:
        BitcertError: If it takes more memory than is available, or more hours than its settings allow.
    """
    for place in plan.places:
        place.check("the study" if plan.problem is None else plan.problem.name)
    most = plan.executor.hours
    if most is None or plan.problem is None:
        return
    hours = plan.hours(passes_per_second(plan.problem))
    if hours > most:
        raise BitcertError(
            f"this takes about {hours:.2f} hours on this machine, {plan.parallel} at a time, and --hours allows {most:g}; "
            "lower what it spends, or allow more"
        )


def summarize_plans(plans: Mapping[str, Plan]) -> dict[str, Any]:
    """Plans of all runs of an experiment, JSON-ready, with the hours that they take on this machine."""
    problem = next((plan.problem for plan in plans.values() if plan.problem is not None), None)
    rate = None if problem is None else passes_per_second(problem)
    runs = {
        name: {
            "searches": plan.searches,
            "evaluations": plan.evaluations,
            "forward_passes": dict(plan.passes),
            "parallel": plan.parallel,
            "hours": None if rate is None or plan.problem is None else plan.hours(rate),
            "memory": None if plan.memory is None else {**asdict(plan.memory), "total": plan.memory.total},
            "places": [{**asdict(place), "taken": place.taken} for place in plan.places],
            "notes": list(plan.notes),
        }
        for name, plan in plans.items()
    }
    return {"runs": runs, "passes_per_second": rate}


def print_plans(summary: Mapping[str, Any]) -> None:
    """The same, for people."""
    for name, run in summary["runs"].items():
        counts = [f"{run['searches']} searches"] if run["searches"] else []
        if run["evaluations"] != 0:
            most = "not limited" if run["evaluations"] is None else f"{run['evaluations']:,}"
            counts.append(f"evaluations at most: {most}")
        print(f"{name}: {', '.join(counts)}")
        for part, passes in run["forward_passes"].items():
            most = "limited by time only" if passes is None else f"{passes:>16,} forward passes at most"
            print(f"  {part:<10} {most}")
        if run["hours"] is not None:
            print(f"  {'time':<10} {run['hours']:>16.2f} hours, {run['parallel']} at a time")
        if run["memory"] is not None:
            print(f"  {'memory':<10} {run['memory']['total'] / GIB:>16.2f} GiB for one evaluation, estimated")
        for place in run["places"]:
            what = f"{place['count']} at a time take {place['taken'] / GIB:.2f} of {place['available'] / GIB:.2f} GiB available"
            print(
                f"  {'':<10} {what} on {place['name']}" + ("" if place["taken"] <= place["available"] else ": TOO MUCH")
            )
        for note in run["notes"]:
            print(f"  {note}")
    if summary["passes_per_second"] is not None:
        total = sum(run["hours"] or 0.0 for run in summary["runs"].values())
        print(
            f"in all about {total:.2f} hours at {summary['passes_per_second']:,.0f} forward passes a second, measured just now on "
            "this machine with the quantized network in one process; nothing was run or written"
        )
