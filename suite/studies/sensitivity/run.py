"""What the sensitivity methods predict, what it cost them, and how well the order of policies agrees with measured ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from baselines.hawq import HAWQ1, HAWQ2
from baselines.planned import PlannedSearcher
from suite.contract.problem import Problem
from suite.contract.searcher import Searcher
from suite.contract.space import Policy
from suite.contract.trial import Fidelity, Trial
from suite.errors import BitcertError, unknown_name
from suite.execute.executor import Resources
from suite.report.agreement import weighted_correlations
from suite.run.registry import make_searcher, predicting_names
from suite.studies.search.run import search
from suite.workbench import workbench_of

_RESAMPLES = 2_000
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Agreement:
    """How a method's predicted losses order measured policies.

    Attributes:
        method: The method, options after its name if any.
        tau: Kendall's tau-b between predicted losses, the least first, and measured scores, the highest first.
        low, high: Its 95 % bootstrap interval over policies.
        planned: The policy that the method would propose.
        forward_passes: What its probes were charged.
        seconds: Wall time of the probes and of the plan.
    """

    method: str
    tau: float
    low: float
    high: float
    planned: Policy
    forward_passes: int
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class Sensitivity:
    """Sensitivities of a problem's layers, and how well they predict.

    Attributes:
        layers: One row per layer: MACs, weights, top eigenvalue, average traces with standard errors.
        losses: One row for each method, layer, part and bit width: the predicted loss.
        policies: One row per measured policy: its bits, BOPs, measured score, and the loss each method predicts.
        agreements: One per method.
        provenance: Of the run whose policies were measured.
    """

    layers: pd.DataFrame
    losses: pd.DataFrame
    policies: pd.DataFrame
    agreements: tuple[Agreement, ...]
    provenance: Mapping[str, Any]


def analyse_sensitivity(
    problem: Problem,
    directory: Path,
    *,
    methods: Sequence[str] | None = None,
    policies: int = 200,
    seed: int = 0,
    fidelity: Fidelity | None = None,
    executor: str = "inline",
    resources: Resources | None = None,
    on_start: Callable[[], object] = lambda: None,
    on_trial: Callable[[Trial], None] | None = None,
    on_method: Callable[[str], None] = lambda _: None,
) -> Sensitivity:
    """Measure random feasible policies, let every method predict them, and compare the orders.

    The measured policies are a run of random search in ``directory``, which is resumed if it is there already.

    Args:
        problem: A network and its data.
        directory: Where the journal of the measured policies goes.
        methods: Methods that predict losses; all registered ones if None.
        policies: How many policies are measured.
        seed: Of the policies, and of the methods' probes.
        fidelity: Of the measurements; the problem's default if None.
        executor: As for :func:`suite.studies.search.run.search`.
        resources: For the Ray executor.
        on_start: Called once the directory is known to hold these measurements.
        on_trial: Called with every measured policy.
        on_method: Called with the name of each method before it probes.

    Raises:
        BitcertError: If a method predicts no losses, or fewer than three different policies could be measured.
    """
    workbench_of(problem, "network to probe")
    searchers = make_methods(problem, predicting_names() if methods is None else methods, seed)
    run = search(
        problem,
        make_searcher("random", problem, seed),
        evaluations=policies,
        directory=directory,
        executor=executor,
        fidelity=fidelity,
        finalists=0,
        resources=resources,
        on_start=on_start,
        on_trial=on_trial,
    )
    measured = {trial.policy: trial for trial in run.trials if trial.metrics is not None}
    if len(measured) < 3:
        raise BitcertError(f"{len(measured)} policies could be measured; an order needs three at least")
    scores = np.array([run.score(trial) for trial in measured.values()])
    names, costs = [policy.to_json() for policy in measured], [problem.bops(policy) for policy in measured]
    table = pd.DataFrame({"policy": names, "bops": costs, "score": scores})
    agreements, losses = [], []
    for method, searcher in searchers.items():
        on_method(method)
        before, started = problem.meter.forward_passes, time.perf_counter()
        planned = searcher.ask()
        seconds = time.perf_counter() - started
        spent = problem.meter.forward_passes - before
        table[method] = [searcher.prediction.loss(policy) for policy in measured]
        tau, low, high = order_agreement(table[method].to_numpy(dtype=np.float64), scores)
        agreements.append(Agreement(method, tau, low, high, planned, spent, seconds))
        losses.append(_loss_rows(method, searcher))
    return Sensitivity(
        layers=_layer_rows(problem, seed, list(searchers.values())),
        losses=pd.concat(losses, ignore_index=True),
        policies=table,
        agreements=tuple(agreements),
        provenance=run.provenance,
    )


def make_methods(problem: Problem, methods: Sequence[str], seed: int = 0) -> dict[str, PlannedSearcher]:
    """Make the sensitivity methods by name, without probing yet.

    Raises:
        BitcertError: If a method predicts no losses, or an option is wrong.
    """
    made: dict[str, PlannedSearcher] = {}
    for method in methods:
        searcher = make_searcher(method, problem, seed)
        if not isinstance(searcher, PlannedSearcher):
            raise unknown_name("sensitivity method", method, predicting_names())
        made[method] = searcher
    return made


def order_agreement(losses: NDArray[np.float64], scores: NDArray[np.float64]) -> tuple[float, float, float]:
    """Kendall's tau-b between ascending losses and descending scores, with its 95 % percentile bootstrap interval.

    NaN where either is constant. The resampling is drawn from a fixed stream.

    References:
        Kendall, Biometrika 33 (1945), with corrections for ties.
    """
    count, rng = len(scores), np.random.default_rng(0)
    drawn, _ = weighted_correlations(
        -losses, scores, rng.multinomial(count, np.full(count, 1 / count), size=_RESAMPLES).astype(float)
    )
    if np.isnan(drawn).all():
        return float("nan"), float("nan"), float("nan")
    low, high = np.nanquantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    ((tau,), _) = weighted_correlations(-losses, scores, np.ones((1, count)))
    return float(tau), float(low), float(high)


def _loss_rows(method: str, searcher: PlannedSearcher) -> pd.DataFrame:
    prediction = searcher.prediction
    rows = [
        {"method": method, "layer": layer.name, "part": part, "bits": bits, "loss": float(losses[position, column])}
        for part, losses in (("weight", prediction.weights), ("activation", prediction.activations))
        for position, layer in enumerate(prediction.space.layers)
        for column, bits in enumerate(prediction.space.choices)
    ]
    return pd.DataFrame(rows)


def _layer_rows(problem: Problem, seed: int, searchers: Sequence[Searcher]) -> pd.DataFrame:
    """Eigenvalues and traces as HAWQ v1 and v2 estimate them, taken from these searchers where they have done so."""
    values = next((found for found in searchers if isinstance(found, HAWQ1)), HAWQ1(problem, seed)).eigenvalues
    traces = next((found for found in searchers if isinstance(found, HAWQ2)), HAWQ2(problem, seed)).traces
    layers, found = problem.space.layers, {"weights": traces("weight"), "inputs": traces("activation")}
    columns: dict[str, Any] = {
        "layer": [layer.name for layer in layers],
        "macs": [layer.macs for layer in layers],
        "weights": [layer.parameters for layer in layers],
        "top_eigenvalue": values.value,
        "top_eigenvalue_residual": values.residual,
    }
    for part, trace in found.items():
        columns[f"mean_trace_{part}"] = trace.mean
        columns[f"mean_trace_{part}_se"] = trace.standard_error / trace.numbers
    return pd.DataFrame(columns)
