"""Where a search stands: one reducer from the events of its journal, for the run under way and for one read back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Self

from suite.contract.objective import parse_objective
from suite.contract.space import Policy
from suite.contract.trial import Metrics, Trial
from suite.errors import BitcertError
from suite.run.events import SEARCH_EVENTS, Ask, Promote, Resume, Retry, Rung, SearchEvent, Start, Stop, Tell
from suite.run.journal import FILE_NAME, read_journal
from suite.run.limits import STALLED_AFTER, Limits
from suite.run.records import Run, leaders


class RunState:
    """What the events so far amount to; :meth:`apply` is the only thing that changes it.

    Args:
        start: The first event.

    Attributes:
        ladder: Fidelities from the lowest rung to that of the search.
        asked: How many trials of the search have begun.
        repeats: How many of them repeated an earlier one.
        pending: Unfinished trials in the order in which they began, each at the rung it has reached; by number, as all that follow.
        trials, finals: Finished trials of the search, and finished second measurements.
        promoted: Policies of all second measurements.
        below: Metrics of a pending trial on the rungs it has passed.
        retries: How often a trial has been retried.
        first_with: The first successful trial of the search with a given policy.
        probe_spend, failed_spend, searcher_seconds, stopped: As in :class:`suite.run.records.Run`.
        elapsed: Time of the run at the last event, in seconds.
    """

    def __init__(self, start: Start) -> None:
        self.start = start
        self.objective = parse_objective(str(start.provenance["objective"]))
        self.ladder = start.rungs.up_to(start.fidelity)
        self.asked = self.repeats = 0
        self.pending: dict[int, Trial] = {}
        self.trials: dict[int, Trial] = {}
        self.promoted: dict[int, Policy] = {}
        self.finals: dict[int, Trial] = {}
        self.first_with: dict[Policy, Trial] = {}
        self.below: dict[int, list[Metrics]] = {}
        self.retries: Counter[int] = Counter()
        self.probe_spend = self.failed_spend = self._trial_spend = self._final_spend = self._free_in_a_row = 0
        self.searcher_seconds = self.elapsed = 0.0
        self.stopped: str | None = None

    @classmethod
    def of(cls, events: Iterable[SearchEvent], path: Path) -> Self:
        """Reduce the events of a journal.

        Raises:
            BitcertError: If they do not tell of a run; it names the line.
        """
        state = cls.extended(None, events, path)
        if state is None:
            raise BitcertError(f"{path.parent} holds a run that has recorded nothing yet")
        return state

    @classmethod
    def extended(cls, state: Self | None, events: Iterable[SearchEvent], path: Path, above: int = 0) -> Self | None:
        """Take further events of a journal into a state, which is changed; None before the first event.

        Args:
            state: What the first ``above`` lines amount to; None if there are none.
            events: The lines that follow.
            path: The journal, for messages.
            above: How many lines were read before.

        Raises:
            BitcertError: If they do not tell of a run; it names the line.
        """
        for line, event in enumerate(events, start=above + 1):
            try:
                if state is None:
                    if not isinstance(event, Start):
                        raise BitcertError(f"a run begins with the event start, not {event.event}")
                    state = cls(event)
                else:
                    state.apply(event)
            except (BitcertError, KeyError) as error:
                raise BitcertError(f"{path}, line {line}: {error}; the file is damaged") from error
        return state

    def apply(self, event: SearchEvent) -> Trial | None:
        """Take in an event.

        Returns:
            The trial that the event is about, as it is afterwards; None if it is about none.

        Raises:
            BitcertError: If the event cannot follow those before.
        """
        trial: Trial | None = None
        match event:
            case Ask():
                trial = self._begin(Trial(event.number, event.policy, self.ladder[0], self.start.evaluation_seed))
                self.asked += 1
            case Promote():
                if (promotion := self.start.promotion) is None:
                    raise BitcertError("this run measures no policy again")
                trial = self._begin(Trial(event.number, event.policy, promotion.fidelity, promotion.seed))
                self.promoted[event.number] = event.policy
            case Rung():
                trial = self._climb(event)
            case Retry():
                trial = self._under_way(event.number)
                self.retries[event.number] += 1
                self.failed_spend += event.wasted
            case Tell():
                trial = self._finish(event)
            case Start():
                raise BitcertError("a run starts once")
            case Resume() | Stop():
                pass
        self.stopped = event.reason if isinstance(event, Stop) else None
        if isinstance(event, Ask | Stop):
            self.probe_spend += event.probes
            self.searcher_seconds += event.searcher_seconds
        if isinstance(event, Rung | Tell | Stop):
            self.elapsed = event.elapsed
        elif isinstance(event, Ask):
            self.elapsed += event.searcher_seconds
        return trial

    @property
    def next_number(self) -> int:
        """Number of the next trial."""
        return self.asked + len(self.promoted)

    @property
    def evaluations(self) -> int:
        """How many evaluations of the search have begun: all trials but repeats."""
        return self.asked - self.repeats

    @property
    def search_spend(self) -> int:
        """Forward passes spent so far without second measurements."""
        under_way = sum(metrics.forward_passes for reached in self.below.values() for metrics in reached)
        return self.probe_spend + self.failed_spend + self._trial_spend + under_way

    @property
    def spend(self) -> int:
        """All forward passes spent so far."""
        return self.search_spend + self._final_spend

    @property
    def stalled(self) -> bool:
        """Whether the last trials spent nothing, :data:`~suite.run.limits.STALLED_AFTER` of them or more."""
        return self._free_in_a_row >= STALLED_AFTER

    def limit_reached(self, limits: Limits, elapsed: float, trial_passes: int) -> str | None:
        """Which limit of the search alone has been reached; None if there is room for another evaluation.

        Args:
            limits: Of the search without its second measurements.
            elapsed: Time of the run in seconds.
            trial_passes: Most forward passes of a trial; those under way count as if they took them.
        """
        if limits.evaluations is not None and self.evaluations >= limits.evaluations:
            return "evaluations"
        under_way = trial_passes * sum(number not in self.promoted for number in self.pending)
        if limits.forward_passes is not None and self.search_spend + under_way >= limits.forward_passes:
            return "forward_passes"
        return "seconds" if limits.seconds is not None and elapsed >= limits.seconds else None

    def next_final(self, finalists: int) -> Policy | None:
        """The best policy that is to be measured again and has not been; only once all trials of the search are in."""
        if any(number not in self.promoted for number in self.pending):
            return None
        best = leaders(list(self.first_with.values()), self.objective, finalists)
        promoted = set(self.promoted.values())
        return next((trial.policy for trial in best if trial.policy not in promoted), None) if len(best) > 1 else None

    def with_rungs_below(self, number: int, metrics: Metrics) -> Metrics:
        """Metrics of a trial's last rung, with what all its rungs cost."""
        reached = [*self.below.get(number, ()), metrics]
        passes, seconds = (sum(getattr(rung, name) for rung in reached) for name in ("forward_passes", "seconds"))
        return replace(metrics, forward_passes=passes, seconds=seconds) if len(reached) > 1 else metrics

    def run(self) -> Run:
        """The run so far; pending trials are left out."""
        header = self.start.model_dump(mode="json", exclude={"event", "provenance", "searcher", "searcher_seed"})
        return Run(
            searcher=self.start.searcher,
            seed=self.start.searcher_seed,
            trials=tuple(self.trials[number] for number in sorted(self.trials)),
            finals=tuple(self.finals[number] for number in sorted(self.finals)),
            probe_spend=self.probe_spend,
            failed_spend=self.failed_spend,
            searcher_seconds=self.searcher_seconds,
            objective=self.objective,
            provenance={**self.start.provenance, **header},
            stopped=self.stopped,
        )

    def _under_way(self, number: int) -> Trial:
        if number not in self.pending:
            raise BitcertError(f"trial {number} is not under way")
        return self.pending[number]

    def _begin(self, trial: Trial) -> Trial:
        if trial.number != self.next_number:
            raise BitcertError(f"trial {trial.number} begins where trial {self.next_number} is due")
        self.pending[trial.number] = trial
        return trial

    def _climb(self, event: Rung) -> Trial:
        trial = self._under_way(event.number)
        rung = 1 + len(self.below.get(event.number, ()))
        if event.number in self.promoted or rung == len(self.ladder):
            raise BitcertError(f"no rung is above the one that trial {event.number} is on")
        self.below.setdefault(event.number, []).append(event.metrics)
        self.pending[event.number] = trial = replace(trial, fidelity=self.ladder[rung])
        return trial

    def _finish(self, event: Tell) -> Trial:
        trial = replace(
            self._under_way(event.number),
            metrics=event.metrics,
            failure=event.failure,
            wasted=event.wasted,
            repeat_of=event.repeat_of,
        )
        if trial.repeat_of is not None:
            first = self.first_with.get(trial.policy)
            if first is None or first.number != trial.repeat_of or event.number in self.promoted:
                raise BitcertError(f"trial {event.number} cannot repeat trial {trial.repeat_of}")
            trial = replace(trial, fidelity=first.fidelity)
            self.repeats += 1
        del self.pending[event.number]
        below = self.below.pop(event.number, ())
        if event.number in self.promoted:
            self.finals[event.number] = trial
            self._final_spend += trial.spend
            return trial
        self.trials[event.number] = trial
        self._trial_spend += trial.spend  # of all rungs, or of the last try
        self._free_in_a_row = self._free_in_a_row + 1 if trial.spend == 0 else 0
        if trial.metrics is None:
            self.failed_spend += sum(metrics.forward_passes for metrics in below)
        else:
            self.first_with.setdefault(trial.policy, trial)
        return trial


def load_run(directory: str | Path) -> Run:
    """Read a run back from its journal, finished or not; pending trials are left out.

    Raises:
        BitcertError: If the directory holds no run, or its journal is damaged or of another version.
    """
    path = Path(directory)
    return RunState.of(read_journal(path, SEARCH_EVENTS), path / FILE_NAME).run()
