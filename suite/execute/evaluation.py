"""One evaluation, wherever it runs: a trial goes in, the same trial with metrics or a failure comes out."""

from __future__ import annotations

import math
from dataclasses import replace

from suite.contract.problem import Problem
from suite.contract.trial import Metrics, Trial
from suite.errors import BitcertError


def evaluate_trial(problem: Problem, trial: Trial) -> Trial:
    """Evaluate a trial; whatever goes wrong becomes its failure, with what it had cost, so that the run goes on."""
    before = problem.meter.forward_passes
    try:
        metrics = problem.evaluate(trial.policy, trial.fidelity, trial.seed)
        _check_finite(metrics)
    except Exception as error:
        return replace(
            trial,
            failure=_readable(f"{type(error).__name__}: {error}"),
            wasted=problem.meter.forward_passes - before,
            retryable=not isinstance(error, BitcertError | FloatingPointError),
        )
    return replace(trial, metrics=metrics)


def _readable(message: str) -> str:
    """The message without what cannot be written as UTF-8, such as bytes of a file name."""
    return message.encode("utf-8", "backslashreplace").decode()


def _check_finite(metrics: Metrics) -> None:
    numbers = metrics.numbers
    if not all(math.isfinite(number) for number in numbers):
        raise FloatingPointError(f"the evaluation measured numbers that are not finite: {numbers}")
