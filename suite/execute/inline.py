"""Evaluations in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from suite.execute.evaluation import evaluate_trial
from suite.execute.executor import Loop, Resources


class InlineExecutor:
    """Everything in this process, one after the other; loops take turns. It ignores the resources."""

    def __init__(self, resources: Resources | None = None) -> None:
        pass

    def run(self, loops: Sequence[Loop]) -> None:
        """Drive all loops until they are finished."""
        active = list(loops)
        while active:
            for loop in list(active):
                trial = loop.propose()
                if trial is None:
                    active.remove(loop)
                else:
                    loop.complete(evaluate_trial(loop.problem, trial))

    def map(self, function: Callable[..., Any], shared: Any, inputs: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Yield ``(position, function(shared, input))`` in order."""
        for position, item in enumerate(inputs):
            yield position, function(shared, item)
