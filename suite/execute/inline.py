"""Where evaluations run: in this process, or on the workers of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from suite.contract.problem import Problem
from suite.errors import BitcertError, unknown_name
from suite.execute.evaluation import evaluate_trial
from suite.run.loop import SearchLoop

EXECUTORS = ("inline", "ray")
LOGGERS = ("tensorboard", "mlflow", "wandb")


@dataclass(frozen=True, slots=True)
class Resources:
    """What the Ray executor may use.

    Attributes:
        workers: Evaluations at the same time; as many as fit if None.
        cpus: CPUs of one evaluation, a fraction allowed.
        gpus: GPUs of one evaluation, a fraction allowed.
        address: An existing cluster, such as ``"auto"``; None starts one on this machine.
        loggers: Ray Tune's callbacks that metrics of trials also go to: ``"tensorboard"``, ``"mlflow"``, ``"wandb"``.
        log_directory: Where Tune keeps the files of TensorBoard; a temporary folder if None.

    Raises:
        BitcertError: On numbers that no evaluation can run with, or an unknown logger.
    """

    workers: int | None = None
    cpus: float = 1.0
    gpus: float = 0.0
    address: str | None = None
    loggers: tuple[str, ...] = ()
    log_directory: Path | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise BitcertError(f"at least one evaluation must run at a time, got {self.workers} workers")
        if self.cpus < 0 or self.gpus < 0 or self.cpus + self.gpus == 0:
            raise BitcertError(f"an evaluation needs CPUs or GPUs, got {self.cpus:g} and {self.gpus:g}")
        for name in self.loggers:
            if name not in LOGGERS:
                raise unknown_name("logger", name, LOGGERS)


class Executor(Protocol):
    """Runs searches to their end and maps functions over inputs; results do not depend on which one does."""

    def run(self, problem: Problem, loops: Sequence[SearchLoop]) -> None:
        """Drive all loops until they are finished."""

    def map(self, function: Callable[..., Any], shared: Any, inputs: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Yield ``(position, function(shared, input))`` as they finish; ``shared`` is sent once."""


class InlineExecutor:
    """Everything in this process, one after the other; loops take turns."""

    def run(self, problem: Problem, loops: Sequence[SearchLoop]) -> None:
        """Drive all loops until they are finished."""
        active = list(loops)
        while active:
            for loop in list(active):
                trial = loop.propose()
                if trial is None:
                    active.remove(loop)
                else:
                    loop.complete(evaluate_trial(problem, trial))

    def map(self, function: Callable[..., Any], shared: Any, inputs: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Yield ``(position, function(shared, input))`` in order."""
        for position, item in enumerate(inputs):
            yield position, function(shared, item)


def check_executor(name: str) -> None:
    """Raise BitcertError, listing the known ones, if there is no executor of that name."""
    if name not in EXECUTORS:
        raise unknown_name("executor", name, EXECUTORS)


def make_executor(name: str, resources: Resources | None = None) -> Executor:
    """Make an executor by name; raises BitcertError listing the known ones if there is none of that name."""
    check_executor(name)
    if name == "inline":
        return InlineExecutor()
    from suite.execute.ray import RayExecutor

    return RayExecutor(resources or Resources())
