"""One search: asks the searcher, records every event before it is acted on, and tells the searcher what came of it.

Executors decide where and when evaluations run; everything that makes a run reproducible is here and in :class:`RunState`.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from suite.contract.problem import Problem
from suite.contract.searcher import Exhausted, Searcher
from suite.contract.space import Policy
from suite.contract.trial import Fidelity, Metrics, Trial
from suite.errors import BitcertError
from suite.run.events import SEARCH_EVENTS, Ask, Promote, Resume, Retry, Rung, SearchEvent, Start, Stop, Tell
from suite.run.journal import JOURNAL_VERSION, Journal, JournalWarning
from suite.run.limits import RETRIES, Limits, Promotion, hold_back
from suite.run.provenance import software
from suite.run.rungs import NO_RUNGS, Halving, Rungs
from suite.run.state import RunState

_LOWERED = "{} holds a search of more {} than asked for; limits may be raised, not lowered: choose another directory"


class SearchLoop:
    """A search that is journaled and can be resumed.

    With ``parallel`` = 1 the trajectory is a function of (problem, searcher, seed, fidelity) alone, whatever executes it.
    On opening a directory that already holds the run, the journal is replayed through the fresh searcher: each recorded
    proposal must come out again, results are told from the record, and trials that were under way are handed out again.

    Args:
        problem: What is searched.
        searcher: A fresh searcher.
        directory: Folder of the run.
        limits: When to stop; a finished run goes on if they have been raised. Second measurements that a shorter run made of
            policies that are no longer among the best then come on top.
        fidelity: Of every evaluation; the problem's default if None.
        seed: Seed of every evaluation (common random numbers).
        parallel: Most trials under way at once.
        promotion: How the best policies are measured again at the end, if at all; the searcher is not told.
        retries: How often a failed trial is retried before it is recorded as failed, unless the evaluation itself would fail
            again, or the tries so far cost what the limit has no room for; the searcher hears of the last failure only.
        rungs: Cheaper fidelities that a policy must survive first, if any; a trial is told with the metrics of the last rung it
            reached and the spend of all of them.
        on_trial: Called with every finished trial, replayed ones included.

    Attributes:
        state: Where the search stands; ``problem``, ``searcher`` and ``parallel`` are as given.

    Raises:
        BitcertError: If the directory holds another run or one that went beyond the limits, the replay does not reproduce the
            journal, or second measurements are to stay within a limit on forward passes and their cost is unknown.
    """

    def __init__(
        self,
        problem: Problem,
        searcher: Searcher,
        directory: Path,
        limits: Limits,
        *,
        fidelity: Fidelity | None = None,
        seed: int = 0,
        parallel: int = 1,
        promotion: Promotion | None = None,
        retries: int = RETRIES,
        rungs: Rungs = NO_RUNGS,
        on_trial: Callable[[Trial], None] | None = None,
    ) -> None:
        if parallel < 1:
            raise BitcertError(f"parallel must be at least 1, got {parallel}")
        if retries < 0:
            raise BitcertError(f"retries must not be negative, got {retries}")
        self.problem = problem
        self.searcher = searcher
        self.parallel = parallel
        self._retries = retries
        self._on_trial = on_trial
        ladder = rungs.up_to(fidelity or problem.fidelity)
        for measured in ladder if promotion is None else (*ladder, promotion.fidelity):
            problem.check_fidelity(measured)
        known = [problem.forward_passes(rung) for rung in ladder]
        self._trial_passes = sum(passes or 0 for passes in known)
        self._limits, self._finalists = limits, 0
        if promotion is not None:
            second = _passes_of(promotion, problem, limits)
            self._limits, self._finalists = hold_back(limits, promotion.finalists, second)
        self._halving = Halving(len(ladder), rungs.reduction) if rungs.lower else None
        self._calls = _SearcherCalls(problem)
        self._exhausted = self._searcher_done = False
        header = {
            "version": JOURNAL_VERSION,
            "searcher": searcher.name,
            "searcher_seed": searcher.seed,
            "searcher_options": dict(searcher.options),
            "fidelity": asdict(ladder[-1]),
            "rungs": asdict(rungs),
            "evaluation_seed": seed,
            "parallel": parallel,
            "promotion": None if promotion is None else asdict(promotion),
            "provenance": problem.provenance(),
            "software": software(),
        }
        start = Start.model_validate_json(json.dumps(header))
        self._journal = Journal(directory, SEARCH_EVENTS)
        try:
            if self._journal.events:
                self._replay(self._journal.events, start)
            else:
                self.state = RunState(start)
                self._journal.append(start)
        except BaseException:
            self._journal.close()
            raise
        self._queue = list(self.state.pending.values())
        self._elapsed_before = self.state.elapsed + self._calls.uncounted
        self._opened = problem.clock.now()

    @property
    def spend(self) -> int:
        """Forward passes spent so far, probes included."""
        return self.state.spend

    @property
    def finished(self) -> bool:
        """Whether nothing is left to propose and nothing is under way."""
        over = not self.state.pending and self._stop_reason() is not None
        return over and self.state.next_final(self._finalists) is None

    def propose(self) -> Trial | None:
        """The next trial to evaluate, on record before it is returned; None if finished or if results must come first."""
        while self._queue or (self._stop_reason() is None and len(self.state.pending) < self.parallel):
            if self._queue:
                trial = self._queue.pop(0)
            elif (policy := self._propose_policy()) is not None:
                trial = self._record(Ask(number=self.state.next_number, policy=policy, **self._calls.take()))
            else:
                continue
            first = self.state.first_with.get(trial.policy)
            if first is None or trial.number in self.state.promoted or trial.number in self.state.below:
                return trial
            self.complete(replace(trial, metrics=first.metrics, repeat_of=first.number))
        if self._stop_reason() is None or len(self.state.pending) >= self.parallel:
            return None
        policy = self.state.next_final(self._finalists)
        if policy is None:
            self._record_end()
            return None
        return self._record(Promote(number=self.state.next_number, policy=policy))

    def complete(self, trial: Trial) -> None:
        """Record a trial's metrics or failure, then tell the searcher; a failure that is not the last is retried.

        Raises:
            ValueError: If the trial is not under way.
        """
        number = trial.number
        if number not in self.state.pending:
            raise ValueError(f"trial {number} is not under way")
        if trial.metrics is None:
            outcome: dict[str, Any] = {"failure": trial.failure, "wasted": trial.wasted}
            if trial.retryable and self.state.retries[number] < self._retries and self._has_room(trial.wasted):
                self._queue.append(self._record(Retry(number=number, **outcome)))
                return
        elif trial.repeat_of is not None:
            outcome = {"metrics": trial.metrics, "repeat_of": trial.repeat_of}
        elif self._goes_on(number, trial.metrics):
            self._queue.append(self._record(Rung(number=number, elapsed=self._elapsed(), metrics=trial.metrics)))
            return
        else:
            outcome = {"metrics": self.state.with_rungs_below(number, trial.metrics)}
        self._hear(self._record(Tell(number=number, elapsed=self._elapsed(), **outcome)))

    def close(self) -> None:
        """Record why the run ended, if it did, and give up the journal."""
        self._record_end()
        self._journal.close()

    def _record_end(self) -> None:
        """Record why the run ended, if it did: at once, for other searches of a comparison may go on for hours."""
        if self.finished and not isinstance(self._journal.events[-1], Stop):
            ended = {"reason": self._stop_reason(), "elapsed": self._elapsed(), **self._calls.take()}
            self.state.apply(self._journal.append(Stop.model_validate(ended)))

    def _stop_reason(self) -> str | None:
        return "exhausted" if self._exhausted else self._reason(self.state, self._elapsed())

    def _reason(self, state: RunState, elapsed: float) -> str | None:
        """Why a search that may have more to propose ends all the same."""
        reached = state.limit_reached(self._limits, elapsed, self._trial_passes)
        return reached or ("stalled" if state.stalled and not self.searcher.learns_from_repeats else None)

    def _has_room(self, wasted: int) -> bool:
        """Whether a try that failed after so many forward passes can be followed by another within the limit on them."""
        limit, under_way = self._limits.forward_passes, self._trial_passes * len(self.state.pending)
        return not wasted or limit is None or self.state.spend + wasted + under_way <= limit

    def _elapsed(self) -> float:
        """Time of the run in seconds, earlier sessions included as far as their last record."""
        return round(self._elapsed_before + self.problem.clock.now() - self._opened, 3)

    def _record(self, event: Ask | Promote | Rung | Retry | Tell) -> Trial:
        trial = self.state.apply(self._journal.append(event))
        assert trial is not None
        return trial

    def _propose_policy(self) -> Policy | None:
        try:
            with self._calls.measured():
                policy = self.searcher.ask(pending=tuple(self.state.pending.values()))
        except Exhausted:
            self._exhausted = self._searcher_done = True
            return None
        self.problem.check_feasible(policy)
        return policy

    def _hear(self, trial: Trial) -> None:
        """Tell the searcher of a finished trial, unless it is a second measurement, and whoever listens."""
        if not self._searcher_done and trial.number not in self.state.promoted:
            with self._calls.measured():
                self.searcher.tell(trial)
        if self._on_trial is not None:
            self._on_trial(trial)

    def _goes_on(self, number: int, metrics: Metrics) -> bool:
        """Whether a trial that has these metrics at its rung is measured at the next one."""
        if self._halving is None or number in self.state.promoted:
            return False
        rung = len(self.state.below.get(number, ()))
        return self._halving.goes_on(number, rung, self.problem.objective.score(metrics))

    def _replay(self, events: Sequence[SearchEvent], start: Start) -> None:
        """Bring state and searcher to where the journal ends; the searcher of a run that is over is left out: it might probe."""
        path = self._journal.path
        recorded = RunState.of(events, path)
        different = recorded.start.differences(start)
        if different:
            raise BitcertError(
                f"{path.parent} holds another run: it differs in {', '.join(different)}; choose another directory"
            )
        last = next(event for event in reversed(events) if not isinstance(event, Resume))
        if isinstance(last, Stop):
            self._exhausted = last.reason == "exhausted"
            self._searcher_done = self._exhausted or self._reason(recorded, last.elapsed) is not None
        self.state = RunState(recorded.start)
        for event in events[1:]:
            self._check_replayed(event)
            trial = self.state.apply(event)
            if isinstance(event, Ask | Stop):
                self._calls.take()  # probes are charged once: what the record says counts, not what the replay measured
            if isinstance(event, Ask | Rung | Tell | Stop):
                self._calls.uncounted = 0.0  # these records' time includes what came before
            if isinstance(event, Tell) and trial is not None:
                self._hear(trial)
        if not self._searcher_done and recorded.start.software != start.software:
            warnings.warn(
                f"{path}: begun with other versions of the software; equal scores are not guaranteed",
                JournalWarning,
                stacklevel=3,
            )
            self.state.apply(self._journal.append(Resume(software=start.software)))

    def _check_replayed(self, event: SearchEvent) -> None:
        """Raise BitcertError unless searcher, halving and state would come to this event too."""
        path = self._journal.path
        match event:
            case Ask():
                if (reached := self.state.limit_reached(self._limits, 0.0, self._trial_passes)) is not None:
                    raise BitcertError(_LOWERED.format(path.parent, reached.replace("_", " ")))
                if self._searcher_done:
                    self.problem.check_feasible(event.policy)
                elif self._propose_policy() != event.policy:
                    raise BitcertError(
                        f"{path}: replaying trial {event.number} gave another proposal than the recorded one; "
                        "the searcher has changed or is not deterministic, so the run cannot be resumed"
                    )
            case Promote():
                promotion = self.state.start.promotion
                if promotion is None or self.state.next_final(promotion.finalists) != event.policy:
                    raise BitcertError(f"{path}: promotion {event.number} cannot be replayed")
                if self.state.next_final(self._finalists) is None:
                    raise BitcertError(_LOWERED.format(path.parent, "second measurements"))
            case Rung():
                if not self._goes_on(event.number, event.metrics):
                    raise BitcertError(f"{path}: a rung of trial {event.number} cannot be replayed")
            case Tell() if event.metrics is not None and event.repeat_of is None:
                self._goes_on(event.number, event.metrics)  # what the halving has seen decides about later trials


def _passes_of(promotion: Promotion, problem: Problem, limits: Limits) -> int:
    """Most forward passes of one second measurement; 0 if that is unknown and no limit depends on it."""
    passes = problem.forward_passes(promotion.fidelity)
    if passes is None and limits.forward_passes is not None and promotion.finalists > 1:
        raise BitcertError(
            f"{problem.name} does not say how many forward passes an evaluation makes, so those of {promotion.finalists} second "
            "measurements cannot be kept within the limit; define forward_passes, measure no finalists again, or limit evaluations"
        )
    return passes or 0


class _SearcherCalls:
    """What the searcher's own calls have cost since the last record of it: forward passes of its probes, and time.

    Attributes:
        uncounted: Their time that is not in the state's ``elapsed`` yet.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._probes = 0
        self._seconds = 0.0
        self.uncounted = 0.0

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Count what happens inside."""
        meter, clock = self._problem.meter, self._problem.clock
        before, began = meter.forward_passes, clock.now()
        try:
            yield
        finally:
            self._probes += meter.forward_passes - before
            seconds = clock.now() - began
            self._seconds += seconds
            self.uncounted += seconds

    def take(self) -> dict[str, Any]:
        """The cost, as fields of an event; resets the counts."""
        cost = {"probes": self._probes, "searcher_seconds": round(self._seconds, 6)}
        self._probes, self._seconds = 0, 0.0
        return cost
