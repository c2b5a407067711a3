"""One evaluation, wherever it runs: a trial goes in, the same trial with metrics or a failure comes out."""

from __future__ import annotations

import math
from dataclasses import replace

from suite.contract.problem import Problem
from suite.contract.trial import Trial
from suite.errors import BitcertError


def evaluate_trial(problem: Problem, trial: Trial) -> Trial:
    """Evaluate a trial; any error becomes its failure, with the passes it cost, so that the run goes on."""
    before = problem.meter.forward_passes
    try:
        metrics = problem.evaluate(trial.policy, trial.fidelity, trial.seed)
        metrics = replace(metrics, costs=problem.costs(trial.policy))
        if not all(map(math.isfinite, metrics.numbers)):
            raise FloatingPointError(f"the evaluation measured numbers that are not finite: {metrics.numbers}")
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
        return replace(
            trial,
            failure=message.encode("utf-8", "backslashreplace").decode(),  # it may quote a file name that is not UTF-8
            wasted=problem.meter.forward_passes - before,
            retryable=not isinstance(error, BitcertError | FloatingPointError),
        )
    return replace(trial, metrics=metrics)
