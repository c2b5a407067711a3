"""One search as a state machine: what to evaluate next, and what to do with a result.

Executors decide where and when evaluations run; everything that makes a run reproducible is here.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from suite.contract.objective import parse_objective
from suite.contract.problem import Problem
from suite.contract.searcher import Exhausted, Searcher
from suite.contract.space import Policy
from suite.contract.trial import Fidelity, Metrics, Trial
from suite.errors import BitcertError
from suite.run.journal import JOURNAL_VERSION, Journal, JournalWarning, read_journal
from suite.run.provenance import software
from suite.run.records import Run, leaders
from suite.run.rungs import Halving, Rungs

NO_RUNGS = Rungs()

RETRIES = 2
"""How often a failed trial is tried again by default: what killed a worker may not kill the next one."""

STALLED_AFTER = 100
"""A run ends after this many trials in a row that spent nothing, repeats or failures: a limit on spend never would."""


@dataclass(frozen=True, slots=True)
class Limits:
    """When a search ends.

    Attributes:
        evaluations: Most trials, repeats included; None for no limit.
        forward_passes: No further trial once this many are spent, probes included; None for no limit.
        seconds: No further trial after this wall time, that of interrupted sessions included; None for no limit. What a
            run finds then depends on the machine.
    """

    evaluations: int | None = 64
    forward_passes: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("evaluations", "forward_passes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BitcertError(f"{name} must be at least 1, got {value}")
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise BitcertError(f"seconds must be a positive number, got {self.seconds}")
        if self.evaluations is None and self.forward_passes is None and self.seconds is None:
            raise BitcertError("a search needs a limit: evaluations, forward_passes or seconds")


@dataclass(frozen=True, slots=True)
class Promotion:
    """A second look at the best policies of a search, once it is over.

    Attributes:
        finalists: How many different policies are measured again; a single candidate is not.
        fidelity: Of the second measurement.
        seed: Of the second measurement; another one than the search's, so that luck is not measured twice.
    """

    finalists: int
    fidelity: Fidelity
    seed: int

    def __post_init__(self) -> None:
        if self.finalists < 1:
            raise BitcertError(f"finalists must be at least 1, got {self.finalists}")


def check_pace(parallel: int, retries: int) -> None:
    """Raise BitcertError unless a search can have so many trials under way and so many retries of each."""
    if parallel < 1:
        raise BitcertError(f"parallel must be at least 1, got {parallel}")
    if retries < 0:
        raise BitcertError(f"retries must not be negative, got {retries}")


class SearchLoop:
    """A search that is journaled and can be resumed.

    With ``parallel`` = 1 the trajectory is a function of (problem, searcher, seed, fidelity) alone, whatever executes it.
    On opening a directory that already holds the run, the journal is replayed through the fresh searcher: each recorded
    proposal must come out again, results are told from the record, and trials that were under way are handed out again.

    Args:
        problem: What is searched.
        searcher: A fresh searcher.
        directory: Folder of the run.
        limits: When to stop; a finished run goes on if they have been raised.
        fidelity: Of every evaluation; the problem's default if None.
        seed: Seed of every evaluation (common random numbers).
        parallel: Most trials under way at once.
        promotion: How the best policies are measured again at the end, if at all; the searcher is not told.
        retries: How often a failed trial is tried again before it is recorded as failed, unless the evaluation itself would fail
            again; the searcher hears of the end only.
        rungs: Cheaper fidelities that a policy must survive first, if any; a trial is told with the metrics of the last rung it
            reached and the spend of all of them.
        on_trial: Called with every finished trial, replayed ones included.

    Raises:
        BitcertError: If the directory holds another run, or the replay does not reproduce the journal.
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
        check_pace(parallel, retries)
        self.problem = problem
        self.searcher = searcher
        self._limits = limits
        self._ladder = rungs.up_to(fidelity or problem.fidelity)
        self._halving = Halving(len(self._ladder), rungs.reduction) if rungs.lower else None
        self._climbed: dict[int, list[Metrics]] = {}
        self._seed = seed
        self.parallel = parallel
        self._promotion = promotion
        self._retries = retries
        self._failures: Counter[int] = Counter()
        self._on_trial = on_trial
        self._finals: dict[int, Trial] = {}
        self._trials: dict[int, Trial] = {}
        self._first_with: dict[Policy, Trial] = {}
        self._pending: dict[int, Trial] = {}
        self._again: list[Trial] = []
        self._asked = 0
        self._spend = 0
        self._probe_spend = 0
        self._uncharged_probes = 0
        self._probe_seconds = 0.0
        self._free_in_a_row = 0
        self._exhausted = False
        self._over = False
        self._elapsed_before = 0.0
        self._opened = time.perf_counter()
        for rung in self._ladder:
            problem.check_fidelity(rung)
        if promotion is not None:
            problem.check_fidelity(promotion.fidelity)
        self._header = {
            "event": "start",
            "version": JOURNAL_VERSION,
            "searcher": searcher.name,
            "searcher_seed": searcher.seed,
            "searcher_options": dict(searcher.options),
            "fidelity": asdict(self._ladder[-1]),
            "rungs": asdict(rungs),
            "evaluation_seed": seed,
            "parallel": parallel,
            "promotion": None if promotion is None else asdict(promotion),
            "provenance": problem.provenance(),
            "software": software(),
        }
        self._journal = Journal(directory)
        try:
            if self._journal.events:
                self._replay(self._journal.events)
            else:
                self._journal.append(self._header)
        except BaseException:
            self._journal.close()
            raise

    @property
    def spend(self) -> int:
        """Forward passes spent so far, probes included."""
        return self._search_spend + sum(trial.spend for trial in self._finals.values())

    @property
    def _search_spend(self) -> int:
        """What counts against the limit: the second measurement of the best comes on top, for all searchers alike."""
        return self._spend + self._probe_spend

    @property
    def finished(self) -> bool:
        """Whether nothing is left to propose and nothing is under way."""
        return not self._pending and not self._again and self._stop_reason() is not None and self._next_final() is None

    def propose(self) -> Trial | None:
        """The next trial to evaluate, on record before it is returned; None if finished or if results must come first."""
        while self._again or (self._stop_reason() is None and len(self._pending) < self.parallel):
            trial = self._again.pop(0) if self._again else self._ask_and_record()
            if trial is None:
                continue
            if trial.policy in self._first_with and not self._is_final(trial) and trial.number not in self._climbed:
                first = self._first_with[trial.policy]
                self.complete(replace(trial, metrics=first.metrics, repeat_of=first.number, fidelity=first.fidelity))
                continue
            return trial
        if self._stop_reason() is not None and len(self._pending) < self.parallel:
            return self._promote_and_record()
        return None

    def complete(self, trial: Trial) -> None:
        """Record a trial's metrics or failure, then tell the searcher; a failure that is not the last will be tried again."""
        if trial.failure is not None and not trial.hopeless and self._failures[trial.number] < self._retries:
            self._journal.append(
                {"event": "retry", "number": trial.number, "failure": trial.failure, "wasted": trial.wasted}
            )
            self._failures[trial.number] += 1
            self._spend += trial.wasted
            self._again.append(replace(trial, failure=None, wasted=0))
            return
        higher = self._climb(trial)
        if higher is not None and trial.metrics is not None:
            self._journal.append(
                {
                    "event": "rung",
                    "number": trial.number,
                    "elapsed": self._elapsed(),
                    "metrics": trial.metrics.to_dict(),
                }
            )
            self._begin_rung(trial.metrics, higher)
            self._again.append(higher)
            return
        trial = self._with_all_rungs(trial)
        event: dict[str, Any] = {"event": "tell", "number": trial.number, "elapsed": self._elapsed()}
        if trial.metrics is not None:
            event["metrics"] = trial.metrics.to_dict()
        else:
            event |= {"failure": trial.failure, "wasted": trial.wasted}
        if trial.repeat_of is not None:
            event["repeat_of"] = trial.repeat_of
        self._journal.append(event)
        self._tell(trial)

    def _climb(self, trial: Trial) -> Trial | None:
        """The trial at the next rung, if it goes on there."""
        if self._halving is None or trial.metrics is None or trial.repeat_of is not None or self._is_final(trial):
            return None
        rung = len(self._climbed.get(trial.number, ()))
        score = self.problem.objective.score(trial.metrics)
        if not self._halving.goes_on(trial.number, rung, score):
            return None
        return replace(trial, fidelity=self._ladder[rung + 1], metrics=None)

    def _begin_rung(self, below: Metrics, trial: Trial) -> None:
        """Count a rung's spend and keep the trial pending at the next one."""
        self._climbed.setdefault(trial.number, []).append(below)
        self._spend += below.forward_passes
        self._pending[trial.number] = trial

    def _with_all_rungs(self, trial: Trial) -> Trial:
        """The metrics of the last rung with what all rungs cost."""
        below = self._climbed.get(trial.number)
        if trial.metrics is None or not below:
            return trial
        reached = [*below, trial.metrics]
        passes, seconds = (sum(getattr(metrics, name) for metrics in reached) for name in ("forward_passes", "seconds"))
        return replace(trial, metrics=replace(trial.metrics, forward_passes=passes, seconds=seconds))

    def close(self) -> None:
        """Record why the run ended, if it did, and give up the journal."""
        if self.finished:
            reason = self._stop_reason()
            if self._journal.events[-1]["event"] != "stop":
                self._journal.append(
                    {"event": "stop", "reason": reason, "elapsed": self._elapsed(), **self._take_probes()}
                )
        self._journal.close()

    def _stop_reason(self) -> str | None:
        if self._exhausted:
            return "exhausted"
        if self._limits.evaluations is not None and self._asked >= self._limits.evaluations:
            return "evaluations"
        if self._limits.forward_passes is not None and self._search_spend >= self._limits.forward_passes:
            return "forward_passes"
        if self._limits.seconds is not None and self._elapsed() >= self._limits.seconds:
            return "seconds"
        if self._free_in_a_row >= STALLED_AFTER:
            return "stalled"
        return None

    def _elapsed(self) -> float:
        """Wall time of the run in seconds, earlier sessions included as far as their last result."""
        return round(self._elapsed_before + time.perf_counter() - self._opened, 3)

    def _ask(self) -> Trial | None:
        try:
            with self._probing():
                policy = self.searcher.ask(pending=tuple(self._pending.values()))
        except Exhausted:
            self._exhausted = self._over = True
            return None
        return self._begin(policy)

    def _begin(self, policy: Policy) -> Trial:
        self.problem.check_feasible(policy)
        trial = Trial(self._numbered(), policy, self._ladder[0], self._seed)
        self._asked += 1
        self._pending[trial.number] = trial
        return trial

    def _ask_and_record(self) -> Trial | None:
        trial = self._ask()
        if trial is not None:
            policy = trial.policy.to_dict()
            self._journal.append({"event": "ask", "number": trial.number, "policy": policy, **self._take_probes()})
        return trial

    def _is_final(self, trial: Trial) -> bool:
        return trial.number in self._finals

    def _next_final(self) -> Policy | None:
        """The best policy that is to be measured again and has not been; only once all trials of the search are in."""
        if self._promotion is None or any(not self._is_final(trial) for trial in self._pending.values()):
            return None
        best = leaders(list(self._first_with.values()), self.problem.objective, self._promotion.finalists)
        promoted = {trial.policy for trial in self._finals.values()}
        return next((trial.policy for trial in best if trial.policy not in promoted), None) if len(best) > 1 else None

    def _promote(self) -> Trial | None:
        policy = self._next_final()
        if policy is None or self._promotion is None:
            return None
        trial = Trial(self._numbered(), policy, self._promotion.fidelity, self._promotion.seed)
        self._finals[trial.number] = self._pending[trial.number] = trial
        return trial

    def _promote_and_record(self) -> Trial | None:
        trial = self._promote()
        if trial is not None:
            self._journal.append({"event": "promote", "number": trial.number, "policy": trial.policy.to_dict()})
        return trial

    def _numbered(self) -> int:
        return self._asked + len(self._finals)

    def _tell(self, trial: Trial) -> None:
        del self._pending[trial.number]
        if self._is_final(trial):
            self._finals[trial.number] = trial
            if self._on_trial is not None:
                self._on_trial(trial)
            return
        self._trials[trial.number] = trial
        self._spend += trial.spend
        if trial.metrics is not None:  # lower rungs are in it, and counted already
            self._spend -= sum(metrics.forward_passes for metrics in self._climbed.get(trial.number, ()))
        self._free_in_a_row = self._free_in_a_row + 1 if trial.spend == 0 else 0
        if trial.metrics is not None:
            self._first_with.setdefault(trial.policy, trial)
        if not self._over:
            with self._probing():
                self.searcher.tell(trial)
        if self._on_trial is not None:
            self._on_trial(trial)

    @contextmanager
    def _probing(self) -> Iterator[None]:
        before, started = self.problem.meter.forward_passes, time.perf_counter()
        try:
            yield
        finally:
            self._uncharged_probes += self.problem.meter.forward_passes - before
            self._probe_seconds += time.perf_counter() - started

    def _take_probes(self) -> dict[str, Any]:
        """What the searcher has spent since the last record, and the wall time of its calls."""
        probes, seconds = self._uncharged_probes, self._probe_seconds
        self._uncharged_probes, self._probe_seconds = 0, 0.0
        self._probe_spend += probes
        return {"probes": probes, "searcher_seconds": round(seconds, 6)}

    def _replace_probes(self, event: dict[str, Any]) -> None:
        """Count what the record says instead of what the replay measured: probes are charged once."""
        self._uncharged_probes, self._probe_seconds = 0, 0.0
        self._probe_spend += event["probes"]

    def _replay(self, events: list[dict[str, Any]]) -> None:
        """Bring loop and searcher to where the journal ends; the searcher of a run that is over is neither asked nor told.

        It would probe again, for minutes, what is on record.
        """
        self._check_header(events[0])
        last = next(event for event in reversed(events) if event["event"] != "resume")
        stopped = last["reason"] if last["event"] == "stop" else None
        self._exhausted = stopped == "exhausted"
        self._over = stopped in ("exhausted", "stalled") or (
            stopped is not None and self._limits_reached(events, last["elapsed"])
        )
        if not self._over:
            self._note_software(events[0])
        for event in events[1:]:
            if event["event"] == "ask":
                trial = self._begin(_policy(event)) if self._over else self._ask()
                if trial is None or trial.policy.to_dict() != event["policy"] or trial.number != event["number"]:
                    raise BitcertError(
                        f"{self._journal.path}: replaying trial {event['number']} gave another proposal than the recorded one; "
                        "the searcher has changed or is not deterministic, so the run cannot be resumed"
                    )
                self._replace_probes(event)
            elif event["event"] == "promote":
                final = self._promote()
                if final is None or final.policy.to_dict() != event["policy"] or final.number != event["number"]:
                    raise BitcertError(f"{self._journal.path}: promotion {event['number']} cannot be replayed")
            elif event["event"] == "rung":
                self._elapsed_before = event["elapsed"]
                metrics = Metrics.from_dict(event["metrics"])
                higher = self._climb(replace(self._pending[event["number"]], metrics=metrics))
                if higher is None:
                    raise BitcertError(f"{self._journal.path}: a rung of trial {event['number']} cannot be replayed")
                self._begin_rung(metrics, higher)
            elif event["event"] == "tell":
                self._elapsed_before = event["elapsed"]
                trial = _told(self._pending[event["number"]], event)
                if trial.repeat_of is not None:
                    trial = replace(trial, fidelity=self._trials[trial.repeat_of].fidelity)
                self._climb(trial)
                self._tell(trial)
            elif event["event"] == "retry":
                self._failures[event["number"]] += 1
                self._spend += event["wasted"]
            elif event["event"] == "stop":
                self._elapsed_before = event["elapsed"]
                self._replace_probes(event)
        self._again = list(self._pending.values())
        self._opened = time.perf_counter()

    def _limits_reached(self, events: list[dict[str, Any]], elapsed: float) -> bool:
        """Whether a run that has stopped is at one of the limits, which may be others than those it stopped at."""
        limits, run = self._limits, run_of(events)
        return (
            (limits.evaluations is not None and len(run.trials) >= limits.evaluations)
            or (limits.forward_passes is not None and run.search_passes >= limits.forward_passes)
            or (limits.seconds is not None and elapsed >= limits.seconds)
        )

    def _check_header(self, found: dict[str, Any]) -> None:
        wanted = json.loads(json.dumps(self._header))
        different = [key for key in wanted if key != "software" and found.get(key) != wanted[key]]
        if different:
            inner = [
                key for key in wanted["provenance"] if found.get("provenance", {}).get(key) != wanted["provenance"][key]
            ]
            named = [key for key in different if key != "provenance"] + inner
            raise BitcertError(
                f"{self._journal.path.parent} holds another run: it differs in {', '.join(named)}; choose another directory"
            )

    def _note_software(self, header: dict[str, Any]) -> None:
        """Warn, and put on record, that a run goes on with other software than it began with."""
        if header.get("software") != self._header["software"]:
            warnings.warn(
                f"{self._journal.path}: begun with other versions of the software; equal scores are not guaranteed",
                JournalWarning,
                stacklevel=2,
            )
            self._journal.append({"event": "resume", "software": self._header["software"]})


def _policy(event: dict[str, Any]) -> Policy:
    return Policy.from_bits(event["policy"]["weights"], event["policy"]["activations"])


def _told(trial: Trial, event: dict[str, Any]) -> Trial:
    metrics = Metrics.from_dict(event["metrics"]) if "metrics" in event else None
    return replace(
        trial,
        metrics=metrics,
        failure=event.get("failure"),
        repeat_of=event.get("repeat_of"),
        wasted=event.get("wasted", 0),
    )


def load_run(directory: str | Path) -> Run:
    """Read a run back from its journal, finished or not; pending trials are left out.

    Raises:
        BitcertError: If the directory holds no run, or its journal is damaged or of another version.
    """
    events = read_journal(Path(directory))
    if not events:
        raise BitcertError(f"{directory} holds a run that has recorded nothing yet")
    return run_of(events)


def run_of(events: list[dict[str, Any]]) -> Run:
    """The run that the events of a journal tell of."""
    header = events[0]
    lower = [Fidelity(**rung) for rung in header["rungs"]["lower"]]
    ladder, seed = (*lower, Fidelity(**header["fidelity"])), header["evaluation_seed"]
    asked: dict[int, Trial] = {}
    told: dict[int, Trial] = {}
    finals: set[int] = set()
    climbed: Counter[int] = Counter()
    probe_spend, failed_spend, searcher_seconds = 0, 0, 0.0
    for event in events[1:]:
        probe_spend += event.get("probes", 0)
        searcher_seconds += event.get("searcher_seconds", 0.0)
        if event["event"] == "ask":
            asked[event["number"]] = Trial(event["number"], _policy(event), ladder[0], seed)
        elif event["event"] == "promote":
            promotion = header["promotion"]
            finals.add(event["number"])
            asked[event["number"]] = Trial(
                event["number"], _policy(event), Fidelity(**promotion["fidelity"]), promotion["seed"]
            )
        elif event["event"] == "rung":
            trial = asked[event["number"]]
            asked[event["number"]] = replace(trial, fidelity=ladder[ladder.index(trial.fidelity) + 1])
            climbed[event["number"]] += event["metrics"]["forward_passes"]
        elif event["event"] == "retry":
            failed_spend += event["wasted"]
        elif event["event"] == "tell":
            trial = _told(asked[event["number"]], event)
            if trial.repeat_of is not None:
                trial = replace(trial, fidelity=told[trial.repeat_of].fidelity)
            told[event["number"]] = trial
            failed_spend += climbed[trial.number] if trial.metrics is None else 0
    provenance = {
        key: value for key, value in header.items() if key not in ("event", "provenance", "searcher", "searcher_seed")
    }
    return Run(
        searcher=header["searcher"],
        seed=header["searcher_seed"],
        trials=tuple(told[number] for number in sorted(told) if number not in finals),
        finals=tuple(told[number] for number in sorted(finals) if number in told),
        probe_spend=probe_spend,
        failed_spend=failed_spend,
        searcher_seconds=searcher_seconds,
        objective=parse_objective(header["provenance"]["objective"]),
        provenance={**header["provenance"], **provenance},
        stopped=events[-1]["reason"] if events[-1]["event"] == "stop" else None,
    )
