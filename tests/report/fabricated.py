"""Comparisons made up for the tests: real trials on the separable problem, exams drawn from a model of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr
from scipy.stats import beta, norm

from suite.certify.certificates import Certificates
from suite.contract.cost import cheapest, enforce_budget, float_bops, random_feasible
from suite.contract.space import Policy
from suite.contract.trial import Fidelity, Metrics, Trial
from suite.problems.separable import SeparableProblem
from suite.report.comparison import Comparison
from suite.run.records import Entry, Outcome, Run

SIX = ("random", "uniform", "cheapest", "tpe", "evolution", "haq")
TWELVE = (*SIX, "arq", "nsga2", "hawq", "sensitivity", "anneal", "greedy")
_N0, _N, _ALPHA = 100, 1_000, 0.001
_EAGERNESS = {"tpe": 0.7, "evolution": 0.85, "haq": 0.1, "arq": 0.6, "nsga2": 0.75, "anneal": 0.5, "greedy": 1.0}


def fabricate(
    searchers: Sequence[str] = SIX,
    seeds: int = 2,
    *,
    layers: int = 20,
    images: int = 200,
    evaluations: int = 16,
    objective: str = "acr",
    budget: str = "w3a3",
    directory: Path = Path("runs"),
) -> Comparison:
    """Make up a comparison: searches are hill climbs of different eagerness; exams follow from a policy's loss."""
    problem = SeparableProblem(layers=layers, budget=budget, objective=objective)
    labels = np.random.default_rng(1).integers(10, size=images)
    recorded = problem.budget.to_dict()
    limits = recorded.get("budget_limits") or {"bops": recorded["budget_bops"]}
    entries = tuple(
        Entry(run, fabricate_outcome(problem, run.best.policy, labels))
        for searcher in searchers
        for run in (_fabricate_run(problem, searcher, seed, evaluations) for seed in range(seeds))
        if run.best is not None
    )
    return Comparison(
        directory=directory,
        entries=entries,
        reference=fabricate_outcome(problem, None, labels),
        layer_names=tuple(layer.name for layer in problem.space.layers),
        limits=limits,
        float_bops=float_bops(problem.space),
        provenance={
            "problem": problem.provenance(),
            "exam": _exam(images),
            "versions": {"numpy": "2.4.6"},
            "commit": "0" * 40,
        },
    )


def fabricate_outcome(problem: SeparableProblem, policy: Policy | None, labels: NDArray[np.int64]) -> Outcome:
    """Certify images whose difficulty and noise are the same for all policies; loss makes every image harder."""
    rng = np.random.default_rng(7)
    loss = 0.0 if policy is None else problem.loss(policy)
    difficulty, noise = rng.normal(0.0, 1.2, len(labels)), rng.uniform(size=len(labels))
    p = norm.cdf(1.6 - 2.0 * loss - difficulty)
    counts = np.floor(noise * 0.04 * _N + p * 0.96 * _N).astype(int)
    p_lower = np.where(counts > 0, beta.ppf(_ALPHA, counts, _N - counts + 1), 0.0)
    certified = p_lower > 0.5
    return make_outcome(
        labels,
        prediction=np.where(certified, np.where(rng.uniform(size=len(labels)) < 0.97, labels, (labels + 1) % 10), -1),
        radius=np.where(certified, problem.sigma * norm.ppf(np.clip(p_lower, 0.5, None)), 0.0),
        clean_accuracy=float((p > 0.4).mean()),
        bops=float_bops(problem.space) if policy is None else problem.bops(policy),
        radii=problem.radii,
        policy=policy,
        costs={} if policy is None else problem.costs(policy),
        provenance={
            "problem": problem.name,
            **_exam(len(labels)),
            "sigma": problem.sigma,
            "network_sha256": "ab" * 32,
            "data_sha256": "cd" * 32,
        },
    )


def make_outcome(
    labels: NDArray[np.int64],
    prediction: NDArray[np.int64],
    radius: NDArray[np.float64],
    *,
    clean_accuracy: float = 0.5,
    bops: int = 1,
    radii: Sequence[float] = (0.0, 0.25),
    policy: Policy | None = None,
    costs: Mapping[str, int] | None = None,
    provenance: dict[str, Any] | None = None,
) -> Outcome:
    """Wrap certificates in an outcome whose averages follow from them."""
    p_lower = ndtr(radius / 0.25)
    certificates = Certificates(prediction, radius, p_lower, np.full(len(labels), _N0 + _N))
    return Outcome(
        policy=policy,
        post_step="none",
        metrics=Metrics(
            clean_accuracy=clean_accuracy,
            acr=certificates.acr(labels),
            certified_accuracy=certificates.certified_accuracy(labels, radii),
            bops=bops,
            forward_passes=len(labels) * (_N0 + _N),
            seconds=1.0,
            alpha=_ALPHA,
            method="fixed",
            costs=costs or {},
        ),
        certificates=certificates,
        labels=labels,
        image_ids=np.arange(len(labels)),
        provenance=provenance or {},
    )


def make_comparison(scores: Mapping[str, ArrayLike], reference: float = 1.0) -> Comparison:
    """Make a comparison in which all images of an exam have the given radius, so that it is the exam ACR."""
    policy, other = Policy.from_bits([2, 2], [2, 2]), None
    labels = np.zeros(4, dtype=np.int64)

    def outcome(radius: float, examined: Policy | None) -> Outcome:
        return make_outcome(labels, labels.copy(), np.full(4, radius), policy=examined)

    objective = SeparableProblem(layers=2).objective
    trial = Trial(0, policy, Fidelity(images=1, noise=1), 0, outcome(0.1, policy).metrics)
    return Comparison(
        directory=Path("runs"),
        entries=tuple(
            Entry(Run(searcher, seed, (trial,), 0, objective, {}, "evaluations"), outcome(score, policy))
            for searcher, values in scores.items()
            for seed, score in enumerate(np.asarray(values, dtype=np.float64).tolist())
        ),
        reference=outcome(reference, other),
        layer_names=("first", "last"),
        limits={"bops": 10},
        float_bops=100,
        provenance={"problem": "made-up"},
    )


def _exam(images: int) -> dict[str, Any]:
    return {"n0": _N0, "n": _N, "alpha": _ALPHA, "images": images, "seed": 1}


def _fabricate_run(problem: SeparableProblem, searcher: str, seed: int, evaluations: int) -> Run:
    rng = np.random.default_rng([seed, *searcher.encode()])
    space, budget, fidelity = problem.space, problem.budget, Fidelity(images=100, noise=100)
    fixed = {
        "uniform": space.uniform(3),
        "cheapest": cheapest(space),
        "hawq": _allocate(problem),
        "sensitivity": _allocate(problem),
    }
    trials: list[Trial] = []
    best: tuple[float, Policy] | None = None
    for number in range(1 if searcher in fixed else evaluations):
        if searcher in fixed:
            policy = fixed[searcher]
        elif best is None and searcher in ("tpe", "evolution"):
            policy = space.uniform(3)
        elif best is None or rng.random() > _EAGERNESS.get(searcher, 0.0):
            policy = random_feasible(space, budget, rng)
        else:
            vector = space.encode(best[1])
            changed = rng.random(len(vector)) < 0.2
            vector[changed] = np.clip(vector[changed] + rng.integers(-1, 3, changed.sum()), 0, len(space.choices) - 1)
            policy = enforce_budget(space, space.decode(vector), budget)
        if number == 5 and searcher == "haq":
            trials.append(Trial(number, policy, fidelity, 0, failure="loss became nan"))
            continue
        measured = replace(problem.evaluate(policy, fidelity), costs=problem.costs(policy))
        estimate = float(measured.measured("acr") + rng.normal(0, 0.002))
        metrics = Metrics.from_dict(measured.to_dict() | {"acr": estimate, "seconds": 1.5})
        repeat = next((trial.number for trial in trials if trial.policy == policy and trial.metrics), None)
        metrics = metrics if repeat is None else trials[repeat].metrics or metrics
        trials.append(Trial(number, policy, fidelity, 0, metrics, repeat_of=repeat))
        score = problem.objective.score(metrics)
        best = (score, policy) if best is None or score > best[0] else best
    provenance = {
        "problem": problem.provenance(),
        "fidelity": {"images": 100, "noise": 100},
        "seed": seed,
        "commit": "0" * 40,
    }
    probes = 30_000 if searcher in ("hawq", "sensitivity") else 0
    stopped = "exhausted" if searcher in fixed else "evaluations"
    return Run(searcher, seed, tuple(trials), probes, problem.objective, provenance, stopped)


def _allocate(problem: SeparableProblem) -> Policy:
    bits = [4 if rank % 3 == 0 else 3 for rank in range(len(problem.space.layers))]
    return enforce_budget(problem.space, Policy.from_bits(bits, bits), problem.budget)
