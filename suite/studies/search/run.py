"""One search: a searcher on a problem, journaled, resumable, on any executor."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from suite.contract.problem import Problem
from suite.contract.searcher import Searcher
from suite.contract.trial import Fidelity, Trial
from suite.errors import BitcertError
from suite.execute.executor import Resources, make_executor
from suite.run.limits import FINALISTS, RETRIES, Limits, Promotion
from suite.run.loop import SearchLoop
from suite.run.records import Run
from suite.run.rungs import NO_RUNGS, Rungs
from suite.run.state import load_run


def search(
    problem: Problem,
    searcher: Searcher,
    *,
    evaluations: int | None = 64,
    forward_passes: int | None = None,
    seconds: float | None = None,
    directory: str | Path,
    executor: str = "inline",
    fidelity: Fidelity | None = None,
    seed: int | None = None,
    parallel: int = 1,
    finalists: int | None = None,
    retries: int = RETRIES,
    rungs: Rungs = NO_RUNGS,
    resources: Resources | None = None,
    on_start: Callable[[], object] = lambda: None,
    on_trial: Callable[[Trial], None] | None = None,
) -> Run:
    """Run a searcher on a problem; a directory that already holds the run is resumed.

    Args:
        problem: What is searched.
        searcher: A fresh searcher for it.
        evaluations: Most evaluations, second measurements included; None for no limit. A trial that repeats an earlier one
            is none.
        forward_passes: No further trial once this many are spent, second measurements included; None for no limit. A search
            spends less than one evaluation more, the searcher's probes for it included.
        seconds: No further trial after this time on the problem's clock; None for no limit.
        directory: Folder of the run's journal.
        executor: ``"inline"``, ``"ray"`` or another registered one; with ``parallel`` = 1 both give the same trials, bit for bit.
        fidelity: Of every evaluation; the problem's default if None.
        seed: Seed of every evaluation; by default :func:`evaluation_seed` of the searcher's seed.
        parallel: Most trials under way at once.
        finalists: How many of the best policies are measured again at the end, with other noise and up to twice the
            images, as far as the limits have room for both (see :func:`suite.run.limits.hold_back`); by default four where the
            search measures estimates, else none.
        retries: How often a failed trial is retried before it is recorded as failed.
        rungs: Cheaper fidelities that a policy must survive first.
        resources: What the executor may use.
        on_start: Called once the directory is known to hold this run, before anything is evaluated.
        on_trial: Called with every finished trial, replayed ones included.

    Raises:
        BitcertError: On arguments out of range, or if the directory holds something else, a search that went beyond these
            limits, or is in use.
    """
    runner = make_executor(executor, resources)
    seed = evaluation_seed(searcher.seed) if seed is None else seed
    loop = SearchLoop(
        problem,
        searcher,
        Path(directory),
        Limits(evaluations, forward_passes, seconds),
        fidelity=fidelity,
        seed=seed,
        parallel=parallel,
        promotion=promotion_of(problem, fidelity or problem.fidelity, seed, finalists),
        retries=retries,
        rungs=rungs,
        on_trial=on_trial,
    )
    with closing(loop):
        on_start()
        runner.run([loop])
    return load_run(directory)


def evaluation_seed(searcher_seed: int) -> int:
    """Seed of all evaluations of a search: searchers with equal seeds are measured with equal noise, others are not.

    The odd number after it is the seed of the second measurement of the best.
    """
    return 2 * searcher_seed


def promotion_of(problem: Problem, fidelity: Fidelity, seed: int, finalists: int | None) -> Promotion | None:
    """How the best of a search are measured again; by default only where evaluations are estimates."""
    check_finalists(finalists)
    if finalists is None:
        finalists = FINALISTS if problem.estimates else 0
    return Promotion(finalists, problem.second_look(fidelity), seed + 1) if finalists else None


def check_finalists(finalists: int | None) -> None:
    """Raise BitcertError on a negative number of finalists."""
    if finalists is not None and finalists < 0:
        raise BitcertError(f"finalists must not be negative, got {finalists}; 0 measures none again")
