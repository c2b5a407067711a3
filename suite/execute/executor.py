"""What an executor is, what it drives, and what it may use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from suite.contract.problem import Problem
from suite.contract.searcher import Searcher
from suite.contract.trial import Trial
from suite.errors import BitcertError, unknown_name
from suite.plugins import EXECUTORS

LOGGERS = ("tensorboard", "mlflow", "wandb")


class Loop(Protocol):
    """A search as executors see it: it proposes the next trial, of at most ``parallel`` under way, and takes it back.

    Trials are evaluated on its ``problem``.
    """

    problem: Problem
    searcher: Searcher
    parallel: int

    @property
    def spend(self) -> int:
        """Forward passes spent so far."""

    @property
    def finished(self) -> bool:
        """Whether nothing is left to propose and nothing is under way."""

    def propose(self) -> Trial | None:
        """The next trial to evaluate; None if finished or if results must come first."""

    def complete(self, trial: Trial) -> None:
        """Take back a trial with its metrics or its failure."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What an executor may use; the inline one needs none of it.

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
    """Runs searches to their end and maps functions over inputs; the results do not depend on the executor."""

    def run(self, loops: Sequence[Loop]) -> None:
        """Drive all loops until they are finished."""

    def map(self, function: Callable[..., Any], shared: Any, inputs: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Yield ``(position, function(shared, input))`` as they finish; ``shared`` is sent once."""


def make_executor(name: str, resources: Resources | None = None) -> Executor:
    """Make a registered executor, or one at ``module:Class``; its class takes the resources.

    Raises:
        BitcertError: If there is none of that name, or it cannot run with these resources.
    """
    executor: Executor = EXECUTORS.load(name)(resources or Resources())
    return executor
