"""Runs: resumed runs equal uninterrupted ones, spend is counted once, other runs are refused."""

import json
import multiprocessing
import re
import resource
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import suite
from suite.contract.cost import random_feasible
from suite.contract.problem import Problem
from suite.contract.searcher import Exhausted, Searcher
from suite.contract.space import Policy
from suite.contract.trial import Fidelity, Metrics, Trial
from suite.errors import BitcertError
from suite.execute.evaluation import evaluate_trial
from suite.execute.inline import InlineExecutor
from suite.problems.separable import SeparableProblem
from suite.run.journal import FILE_NAME, JournalWarning
from suite.run.limits import STALLED_AFTER, Limits, Promotion
from suite.run.loop import SearchLoop
from suite.run.records import Run
from suite.run.registry import make_searcher, standalone_names
from suite.run.state import load_run
from suite.studies.search.run import search
from tests.run.virtual import TimedProblem, seconds_of


class Probing(Searcher):
    """Random policies, and one metered probe of the problem in every call."""

    def __init__(self, problem: Problem, seed: int) -> None:
        super().__init__(problem, seed)
        self._rng = np.random.default_rng(seed)

    def ask(self, pending: Sequence[Trial] = ()) -> Policy:
        self.problem.meter.charge(10)
        return random_feasible(self.problem.space, self.problem.budget, self._rng)

    def tell(self, trial: Trial) -> None:
        self.problem.meter.charge(3)


class Repeating(Searcher):
    """Two policies in turn, forever."""

    def __init__(self, problem: Problem, seed: int) -> None:
        super().__init__(problem, seed)
        self._asked = 0

    def ask(self, pending: Sequence[Trial] = ()) -> Policy:
        self._asked += 1
        return self.problem.space.uniform(2 + self._asked % 2)

    def tell(self, trial: Trial) -> None:
        pass


class Failing(SeparableProblem):
    """A problem on which every third evaluation goes wrong."""

    calls = 0

    def evaluate(self, policy: Policy, fidelity: Fidelity, seed: int = 0) -> Metrics:
        self.calls += 1
        if self.calls % 3 == 0:
            raise RuntimeError("out of memory")
        metrics = super().evaluate(policy, fidelity, seed)
        return replace(metrics, acr=float("nan")) if self.calls % 3 == 1 and self.calls > 6 else metrics


def run_all(make: Callable[[Problem], Searcher], directory: Path, evaluations: int = 12, parallel: int = 1) -> Run:
    problem = SeparableProblem()
    return search(problem, make(problem), evaluations=evaluations, directory=directory, parallel=parallel)


@pytest.mark.parametrize(
    "name", [name for name in standalone_names() if name != "interval-ilp"]
)  # needs other certificates
def test_a_run_cut_anywhere_and_resumed_equals_the_uninterrupted_one(name: str, tmp_path: Path) -> None:
    whole = run_all(lambda problem: make_searcher(name, problem, 3), tmp_path / "whole")
    content = (tmp_path / "whole" / FILE_NAME).read_bytes()
    ends = [position + 1 for position, byte in enumerate(content) if byte == ord("\n")]
    for number, end in enumerate([*ends[::3], ends[-2]]):
        cut = tmp_path / f"cut{number}"
        cut.mkdir()
        (cut / FILE_NAME).write_bytes(content[:end])
        resumed = run_all(lambda problem: make_searcher(name, problem, 3), cut)
        assert resumed == whole
        assert timeless((cut / FILE_NAME).read_bytes()) == timeless(content)


def timeless(journal: bytes) -> bytes:
    """A journal without its wall times, and without the checksums over them; evaluations take none on a formula."""
    return re.sub(rb'"(searcher_seconds|elapsed|crc)":("[0-9a-f]{8}"|[-+.e0-9]+)', b"", journal)


def test_a_run_cut_inside_a_line_is_mended_and_equal(tmp_path: Path) -> None:
    whole = run_all(lambda problem: make_searcher("random", problem, 3), tmp_path / "whole")
    content = (tmp_path / "whole" / FILE_NAME).read_bytes()
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / FILE_NAME).write_bytes(content[: len(content) // 2 + 7])
    with pytest.warns(JournalWarning, match="torn"):
        assert run_all(lambda problem: make_searcher("random", problem, 3), tmp_path / "cut") == whole


def test_probes_are_charged_once_whether_or_not_the_run_was_interrupted(tmp_path: Path) -> None:
    whole = run_all(lambda problem: Probing(problem, 0), tmp_path / "whole")
    assert whole.probe_spend == 12 * 13
    assert whole.forward_passes == 12 * 13 + 12
    content = (tmp_path / "whole" / FILE_NAME).read_bytes()
    for number, line_end in enumerate(position + 1 for position, byte in enumerate(content) if byte == ord("\n")):
        cut = tmp_path / f"cut{number}"
        cut.mkdir()
        (cut / FILE_NAME).write_bytes(content[:line_end])
        assert run_all(lambda problem: Probing(problem, 0), cut) == whole


def test_a_finished_run_is_read_back_without_evaluating(tmp_path: Path) -> None:
    whole = run_all(lambda problem: make_searcher("random", problem, 0), tmp_path)

    class Closed(SeparableProblem):
        def evaluate(self, policy: Policy, fidelity: Fidelity, seed: int = 0) -> Metrics:
            raise AssertionError("evaluated again")

    problem = Closed()
    assert search(problem, make_searcher("random", problem, 0), evaluations=12, directory=tmp_path) == whole


def test_a_finished_run_goes_on_when_more_evaluations_are_asked_for(tmp_path: Path) -> None:
    long = run_all(lambda problem: make_searcher("evolution", problem, 0), tmp_path / "long", evaluations=20)
    run_all(lambda problem: make_searcher("evolution", problem, 0), tmp_path / "short", evaluations=8)
    extended = run_all(lambda problem: make_searcher("evolution", problem, 0), tmp_path / "short", evaluations=20)
    assert extended == long


def test_the_best_trial_is_the_earliest_of_the_highest_score(tmp_path: Path) -> None:
    run = run_all(lambda problem: make_searcher("random", problem, 1), tmp_path, evaluations=30)
    scores = [trial.metrics.measured("acr") for trial in run.trials if trial.metrics is not None]
    assert run.best is not None
    assert run.best.number == scores.index(max(scores))


def test_repeats_are_free_and_a_run_of_nothing_else_stalls(tmp_path: Path) -> None:
    problem = SeparableProblem()
    run = search(problem, Repeating(problem, 0), evaluations=None, forward_passes=10, directory=tmp_path)
    assert run.stopped == "stalled"
    assert len(run.trials) == 2 + STALLED_AFTER
    assert run.forward_passes == 2
    assert [trial.repeat_of for trial in run.trials[:5]] == [None, None, 0, 1, 0]
    assert run.trials[2].metrics == run.trials[0].metrics


def test_failures_are_free_too_and_a_run_of_nothing_else_stalls(tmp_path: Path) -> None:
    class Broken(SeparableProblem):
        def evaluate(self, policy: Policy, fidelity: Fidelity, seed: int = 0) -> Metrics:
            raise RuntimeError("out of memory")

    problem = Broken()
    run = search(
        problem, make_searcher("random", problem, 0), evaluations=None, forward_passes=10, directory=tmp_path / "run"
    )
    assert (run.stopped, run.best) == ("stalled", None)


def test_a_spend_limit_counts_probes_and_stops_the_run(tmp_path: Path) -> None:
    problem = SeparableProblem()
    run = search(problem, Probing(problem, 0), evaluations=None, forward_passes=100, directory=tmp_path)
    assert run.stopped == "forward_passes"
    assert 100 <= run.forward_passes < 100 + 14


def test_exhausted_searchers_end_their_run(tmp_path: Path) -> None:
    run = run_all(lambda problem: make_searcher("cheapest", problem, 0), tmp_path)
    assert (run.stopped, len(run.trials)) == ("exhausted", 1)


def test_failures_are_recorded_with_their_reason_and_the_run_goes_on(tmp_path: Path) -> None:
    problem = Failing()
    run = search(problem, make_searcher("tpe", problem, 0), evaluations=12, directory=tmp_path, retries=0)
    failures = [trial.failure for trial in run.trials if trial.failure is not None]
    assert len(run.trials) == 12
    assert "RuntimeError: out of memory" in failures
    assert any("not finite" in failure for failure in failures)
    assert run.best is not None


def test_an_infeasible_proposal_is_refused(tmp_path: Path) -> None:
    class Cheating(Repeating):
        def ask(self, pending: Sequence[Trial] = ()) -> Policy:
            return self.problem.space.uniform(8)

    problem = SeparableProblem()
    with pytest.raises(BitcertError, match="over the budget"):
        search(problem, Cheating(problem, 0), evaluations=4, directory=tmp_path)


def test_parallel_trials_are_pending_and_may_finish_out_of_order(tmp_path: Path) -> None:
    problem = SeparableProblem()
    loop = SearchLoop(problem, make_searcher("tpe", problem, 0), tmp_path, Limits(6), parallel=3)
    trials = [loop.propose() for _ in range(4)]
    assert trials[3] is None
    assert not loop.finished
    for trial in reversed(trials[:3]):
        assert trial is not None
        loop.complete(evaluate_trial(problem, trial))
    InlineExecutor().run([loop])
    loop.close()
    assert [trial.number for trial in load_run(tmp_path).trials] == list(range(6))


def test_trials_under_way_at_a_crash_are_handed_out_again(tmp_path: Path) -> None:
    problem = SeparableProblem()
    loop = SearchLoop(problem, make_searcher("random", problem, 0), tmp_path, Limits(6), parallel=3)
    before = [loop.propose() for _ in range(3)]
    assert before[1] is not None
    loop.complete(evaluate_trial(problem, before[1]))
    loop.close()
    again = SearchLoop(problem, make_searcher("random", problem, 0), tmp_path, Limits(6), parallel=3)
    assert [again.propose(), again.propose()] == [before[0], before[2]]
    again.close()


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"seed": 5}, "searcher_seed"),
        ({"searcher": "tpe"}, "searcher"),
        ({"budget": "w4a4"}, "budget"),
        ({"fidelity": Fidelity(2, 2)}, "fidelity"),
    ],
)
def test_a_directory_with_another_run_is_refused(tmp_path: Path, changed: dict[str, object], named: str) -> None:
    def go(searcher: str = "random", seed: int = 0, budget: str = "w3a3", fidelity: Fidelity | None = None) -> None:
        problem = SeparableProblem(budget=budget)
        search(problem, make_searcher(searcher, problem, seed), evaluations=3, directory=tmp_path, fidelity=fidelity)

    go()
    content = (tmp_path / FILE_NAME).read_bytes()
    with pytest.raises(BitcertError, match=rf"another run.*{named}"):
        go(**changed)  # type: ignore[arg-type]
    assert (tmp_path / FILE_NAME).read_bytes() == content


def test_a_searcher_that_changed_is_refused(tmp_path: Path) -> None:
    run_all(lambda problem: make_searcher("random", problem, 0), tmp_path)
    problem = SeparableProblem()
    changed = make_searcher("random", problem, 0)
    changed.ask()
    with pytest.raises(BitcertError, match="not deterministic"):
        search(problem, changed, evaluations=13, directory=tmp_path)


def test_the_facade_reads_runs(tmp_path: Path) -> None:
    run = run_all(lambda problem: make_searcher("random", problem, 0), tmp_path)
    assert suite.load_run(tmp_path) == run


def test_exhausted_is_an_exception_of_the_facade() -> None:
    problem = SeparableProblem()
    searcher = suite.make_searcher("cheapest", problem, seed=0)
    searcher.ask()
    with pytest.raises(suite.Exhausted):
        searcher.ask()
    assert suite.Exhausted is Exhausted


class Noisy(SeparableProblem):
    """A problem whose first measurement of a policy is the luckier the worse the policy is."""

    def evaluate(self, policy: Policy, fidelity: Fidelity, seed: int = 0) -> Metrics:
        metrics = super().evaluate(policy, fidelity, seed)
        return replace(metrics, acr=0.25 - metrics.measured("acr")) if seed == 0 else metrics


def run_with_finals(problem: Problem, directory: Path, evaluations: int = 13, finalists: int = 4) -> Run:
    promotion = Promotion(finalists, Fidelity(images=2, noise=5), seed=1)
    loop = SearchLoop(problem, make_searcher("random", problem, 0), directory, Limits(evaluations), promotion=promotion)
    InlineExecutor().run([loop])
    loop.close()
    return load_run(directory)


def test_finalists_are_measured_again_and_the_second_measurement_decides(tmp_path: Path) -> None:
    problem = Noisy(budget="w4a4")
    run = run_with_finals(problem, tmp_path / "run")
    assert len(run.trials) == 9
    by_first = sorted(run.trials, key=lambda trial: -run.score(trial))
    assert [trial.policy for trial in run.finals] == [trial.policy for trial in by_first[:4]]
    assert {(trial.fidelity, trial.seed) for trial in run.finals} == {(Fidelity(images=2, noise=5), 1)}
    assert run.best is not None
    assert run.best.policy == max(run.finals, key=run.score).policy != by_first[0].policy
    assert run.forward_passes == 9 + 4 * 10
    assert (run.evaluations, run.stopped) == (13, "evaluations")


def test_finals_survive_a_cut_anywhere_and_more_evaluations(tmp_path: Path) -> None:
    whole = run_with_finals(Noisy(budget="w4a4"), tmp_path / "whole")
    content = (tmp_path / "whole" / FILE_NAME).read_bytes()
    ends = [position + 1 for position, byte in enumerate(content) if byte == ord("\n")]
    for number, end in enumerate(ends[-9:]):
        cut = tmp_path / f"cut{number}"
        cut.mkdir()
        (cut / FILE_NAME).write_bytes(content[:end])
        assert run_with_finals(Noisy(budget="w4a4"), cut) == whole
    longer = run_with_finals(Noisy(budget="w4a4"), tmp_path / "whole", evaluations=34)
    assert len(longer.trials) == 30
    assert longer.trials[:9] == whole.trials
    assert longer.finals[:4] == whole.finals
    best = sorted(longer.trials, key=lambda trial: (-longer.score(trial), trial.number))[:4]
    assert {trial.policy for trial in best} <= {trial.policy for trial in longer.finals}
    assert load_run(tmp_path / "whole") == longer


def test_a_single_candidate_is_not_measured_again(tmp_path: Path) -> None:
    problem = SeparableProblem()
    promotion = Promotion(4, Fidelity(images=2, noise=5), seed=1)
    loop = SearchLoop(problem, make_searcher("cheapest", problem, 0), tmp_path, Limits(9), promotion=promotion)
    InlineExecutor().run([loop])
    loop.close()
    run = load_run(tmp_path)
    assert (len(run.trials), run.finals, run.stopped) == (1, (), "exhausted")
    with pytest.raises(BitcertError, match="finalists must be at least 1"):
        Promotion(0, Fidelity(), 1)


def test_a_run_with_other_finals_is_another_run(tmp_path: Path) -> None:
    run_with_finals(SeparableProblem(), tmp_path)
    with pytest.raises(BitcertError, match="differs in promotion"):
        run_with_finals(SeparableProblem(), tmp_path, finalists=2)


def test_a_run_that_ended_exhausted_is_read_back_without_asking_its_searcher(tmp_path: Path) -> None:
    class Once(Probing):
        def ask(self, pending: Sequence[Trial] = ()) -> Policy:
            if self.problem.meter.forward_passes > 0:
                raise Exhausted("one policy is all")
            return super().ask(pending)

    def once(problem: Problem) -> Once:
        return Once(problem, 0)

    whole = run_all(once, tmp_path)
    assert (whole.stopped, len(whole.trials)) == ("exhausted", 1)
    problem = SeparableProblem()
    again = search(problem, Once(problem, 0), evaluations=50, directory=tmp_path)
    assert again == whole
    assert problem.meter.forward_passes == 0


@pytest.mark.parametrize("limits", [Limits(6), Limits(None, forward_passes=60), Limits(None, seconds=30)])
def test_the_searcher_of_a_run_that_is_over_is_neither_asked_nor_told(limits: Limits, tmp_path: Path) -> None:
    class Unwilling(Probing):
        def ask(self, pending: Sequence[Trial] = ()) -> Policy:
            raise AssertionError("asked again")

        def tell(self, trial: Trial) -> None:
            raise AssertionError("told again")

    def run(kind: type[Probing], limits: Limits) -> int:
        problem = TimedProblem()
        promotion = Promotion(2, problem.fidelity, seed=1)
        searcher = kind(problem, 0)
        searcher.name = "probing"
        loop = SearchLoop(problem, searcher, tmp_path, limits, promotion=promotion)
        InlineExecutor().run([loop])
        loop.close()
        return loop.spend

    spent = run(Probing, limits)
    whole = load_run(tmp_path)
    assert spent == whole.forward_passes
    assert run(Unwilling, limits) == spent
    assert load_run(tmp_path) == whole
    more = Limits(whole.evaluations + 2)
    with pytest.raises(AssertionError, match="asked again"):
        run(Unwilling, more)
    assert run(Probing, more) > spent


def test_the_time_of_a_searcher_is_on_record(tmp_path: Path) -> None:
    problem = TimedProblem()

    class Slow(Probing):
        def ask(self, pending: Sequence[Trial] = ()) -> Policy:
            problem.virtual.advance(0.25)
            return super().ask(pending)

    run = search(problem, Slow(problem, 0), evaluations=5, directory=tmp_path)
    assert run.searcher_seconds == 5 * 0.25
    assert load_run(tmp_path).searcher_seconds == run.searcher_seconds


class Flaky(SeparableProblem):
    """A problem whose evaluations go wrong the first few times they are tried."""

    failures = 2

    def __init__(self) -> None:
        super().__init__()
        self.tried: Counter[Policy] = Counter()

    def evaluate(self, policy: Policy, fidelity: Fidelity, seed: int = 0) -> Metrics:
        self.tried[policy] += 1
        if self.tried[policy] <= self.failures:
            raise RuntimeError(f"worker lost, attempt {self.tried[policy]}")
        return super().evaluate(policy, fidelity, seed)


def search_with(problem: SeparableProblem, directory: Path, retries: int = 2) -> Run:
    return search(problem, make_searcher("tpe", problem, 0), evaluations=8, directory=directory, retries=retries)


def test_failed_trials_are_tried_again_and_nothing_else_changes(tmp_path: Path) -> None:
    flaky = search_with(Flaky(), tmp_path / "flaky")
    assert flaky == search_with(SeparableProblem(), tmp_path / "sound")
    events = [json.loads(line) for line in (tmp_path / "flaky" / FILE_NAME).read_text().splitlines()]
    retries = [event for event in events if event["event"] == "retry"]
    assert len(retries) == 2 * 8
    assert {event["failure"] for event in retries} == {f"RuntimeError: worker lost, attempt {k}" for k in (1, 2)}


def test_retries_are_bounded_also_over_a_crash(tmp_path: Path) -> None:
    run = search_with(Flaky(), tmp_path / "once", retries=1)
    assert [trial.failure for trial in run.trials] == ["RuntimeError: worker lost, attempt 2"] * 8
    lines = (tmp_path / "once" / FILE_NAME).read_text().splitlines(keepends=True)
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / FILE_NAME).write_text("".join(lines[:3]))  # start, ask, retry
    resumed = search_with(Flaky(), tmp_path / "cut", retries=1)
    assert resumed.trials[0].failure == "RuntimeError: worker lost, attempt 1"  # of a fresh problem: the second in all
    with pytest.raises(BitcertError, match="retries must not be negative"):
        search_with(Flaky(), tmp_path / "never", retries=-1)


def test_a_limit_on_time_adds_up_over_sessions(tmp_path: Path) -> None:
    def go(seconds: float) -> Run:
        problem = TimedProblem()
        searcher = make_searcher("random", problem, 0)
        return search(problem, searcher, evaluations=None, seconds=seconds, directory=tmp_path)

    def lasted(run: Run) -> list[float]:
        return [seconds_of(trial.policy) for trial in run.trials]

    first = go(30)
    assert first.stopped == "seconds"
    assert sum(lasted(first)[:-1]) < 30 <= sum(lasted(first))  # the last one begins before the limit
    assert go(30) == first
    longer = go(80)
    assert longer.trials[: len(first.trials)] == first.trials
    assert sum(lasted(longer)[:-1]) < 80 <= sum(lasted(longer))
    for wrong in (0, -1, float("nan")):
        with pytest.raises(BitcertError, match="seconds must be a positive number"):
            Limits(seconds=wrong)


def test_a_full_disk_leaves_a_whole_journal_and_the_run_goes_on(tmp_path: Path) -> None:
    whole = search_with(SeparableProblem(), tmp_path / "whole")
    size = (tmp_path / "whole" / FILE_NAME).stat().st_size

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size))
        search_with(SeparableProblem(), tmp_path / "full")

    child = multiprocessing.get_context("fork").Process(target=fill)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # a fork of a process with threads, which the child leaves alone
        child.start()
    child.join()
    assert child.exitcode == 1
    content = (tmp_path / "full" / FILE_NAME).read_bytes()
    assert content.endswith(b"\n")
    assert size // 2 - 400 < len(content) <= size // 2
    assert search_with(SeparableProblem(), tmp_path / "full") == whole


class Diverging(SeparableProblem):
    """A problem whose evaluations cost seven passes before they fail, each time."""

    def evaluate(self, policy: Policy, fidelity: Fidelity, seed: int = 0) -> Metrics:
        self.meter.charge(7)
        raise BitcertError("finetuning diverged at step 95 of 100")


def test_what_fails_by_itself_is_charged_and_not_tried_again(tmp_path: Path) -> None:
    def diverge() -> Run:
        searcher = make_searcher("random", problem := Diverging(), 0)
        return search(problem, searcher, evaluations=None, forward_passes=21, directory=tmp_path, retries=2)

    run = diverge()
    events = [json.loads(line)["event"] for line in (tmp_path / FILE_NAME).read_text().splitlines()]
    assert "retry" not in events
    assert (len(run.trials), run.forward_passes, run.stopped) == (3, 21, "forward_passes")
    assert diverge() == run


def test_failed_tries_are_charged_too_and_stay_charged(tmp_path: Path) -> None:
    class Costly(Flaky):
        def evaluate(self, policy: Policy, fidelity: Fidelity, seed: int = 0) -> Metrics:
            if self.tried[policy] < self.failures:
                self.meter.charge(5)
            return super().evaluate(policy, fidelity, seed)

    costly, sound = search_with(Costly(), tmp_path / "costly"), search_with(SeparableProblem(), tmp_path / "sound")
    assert costly.forward_passes == sound.forward_passes + 8 * 2 * 5
    assert search_with(Costly(), tmp_path / "costly") == costly
    each = costly.forward_passes // 8
    problem, limit = Costly(), 3 * each - 1
    limited = search(
        problem,
        make_searcher("tpe", problem, 0),
        evaluations=None,
        forward_passes=limit,
        directory=tmp_path / "limited",
    )
    assert (len(limited.trials), limited.stopped) == (3, "forward_passes")


def test_a_search_taken_further_ends_as_one_that_never_stopped(tmp_path: Path) -> None:
    def go(directory: Path, passes: int) -> Run:
        problem = Noisy(budget="w4a4")
        promotion = Promotion(4, Fidelity(images=2, noise=5), seed=1)
        loop = SearchLoop(
            problem, make_searcher("random", problem, 0), directory, Limits(None, passes), promotion=promotion
        )
        InlineExecutor().run([loop])
        loop.close()
        return load_run(directory)

    straight = go(tmp_path / "straight", 160)
    shorter = go(tmp_path / "further", 90)
    further = go(tmp_path / "further", 160)
    assert shorter.trials == further.trials[: len(shorter.trials)]
    found = [(trial.policy, trial.metrics) for trial in further.trials]
    assert found == [(trial.policy, trial.metrics) for trial in straight.trials]
    assert len(further.finals) > len(straight.finals)  # those of the shorter search come on top
    assert (straight.forward_passes, len(straight.trials), len(straight.finals)) == (160, 120, 4)
    assert further.best is not None
    assert straight.best is not None
    assert further.best.policy == straight.best.policy
