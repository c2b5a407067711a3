"""A limit holds for search, probes and second measurements together; repeats are no evaluations."""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suite.contract.cost import random_feasible
from suite.contract.problem import Problem
from suite.contract.searcher import Exhausted, Searcher
from suite.contract.space import Policy
from suite.contract.trial import Fidelity, Metrics, Trial
from suite.errors import BitcertError
from suite.execute.evaluation import evaluate_trial
from suite.problems.separable import SeparableProblem
from suite.run.journal import FILE_NAME
from suite.run.limits import STALLED_AFTER, Limits, Promotion, hold_back
from suite.run.loop import SearchLoop
from suite.run.records import Run
from suite.run.registry import make_searcher
from suite.run.rungs import NO_RUNGS, Rungs
from suite.run.state import load_run
from suite.studies.search.run import search

TOP = Fidelity(images=6, noise=2)
SECOND = Fidelity(images=10, noise=2)
MOST, SECOND_MOST = 12, 20


class Uneven(SeparableProblem):
    """Evaluations cost what they do not need to the last: between half and all of what they may; some fail at that cost."""

    def __init__(self, failing: float = 0.0) -> None:
        super().__init__(layers=3, budget="w4a4")
        self._failing = failing

    def evaluate(self, policy: Policy, fidelity: Fidelity, seed: int = 0) -> Metrics:
        rng = np.random.default_rng(zlib.crc32(f"{policy.to_json()} {fidelity} {seed}".encode()))
        passes = int(rng.integers(fidelity.images, fidelity.images * fidelity.noise + 1))
        if rng.random() < self._failing:
            self.meter.charge(passes)
            raise RuntimeError("worker lost")
        metrics = self._metrics(self.loss(policy), self.bops(policy), Fidelity(passes, 1))
        assert metrics.forward_passes == passes
        return metrics


class Wanderer(Searcher):
    """Random policies of a small space, many of them twice, after so many forward passes of probes; so many at most."""

    def __init__(self, problem: Problem, seed: int, probes: int = 0, proposals: int = 10_000) -> None:
        super().__init__(problem, seed)
        self._rng = np.random.default_rng(seed)
        self._probes, self._proposals = probes, proposals

    def ask(self, pending: Sequence[Trial] = ()) -> Policy:
        if self._proposals == 0:
            raise Exhausted("that is all")
        self._proposals -= 1
        self.problem.meter.charge(self._probes)
        return random_feasible(self.problem.space, self.problem.budget, self._rng)

    def tell(self, trial: Trial) -> None:
        pass


class Student(Wanderer):
    """The same, and it learns from repeats: two policies in turn."""

    learns_from_repeats = True

    def ask(self, pending: Sequence[Trial] = ()) -> Policy:
        super().ask(pending)
        return self.problem.space.uniform(2 + self._proposals % 2)


def drive(loop: SearchLoop, order: np.random.Generator) -> None:
    """Keep as many trials under way as the loop hands out, and finish them in any order."""
    under_way: list[Trial] = []
    while True:
        while (trial := loop.propose()) is not None:
            under_way.append(trial)
        if not under_way:
            break
        done = under_way.pop(int(order.integers(len(under_way))))
        loop.complete(evaluate_trial(loop.problem, done))
    assert loop.finished
    loop.close()


def second_measurements(limit: int, finalists: int, each: int) -> int:
    """How many there are by the rule: the search has as much as all of them cost first; one alone decides nothing."""
    count = min(finalists, max(0, limit - finalists * each) // each)
    return count if count > 1 else 0


@given(
    limit=st.integers(1, 400),
    finalists=st.integers(1, 5),
    probes=st.sampled_from([0, 0, 7]),
    proposals=st.sampled_from([1, 2, 3, 1000]),
    failing=st.sampled_from([0.0, 0.3]),
    parallel=st.integers(1, 3),
    rungs=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=20, deadline=None)
def test_a_limit_on_forward_passes_holds_for_everything_but_one_evaluation(
    limit: int, finalists: int, probes: int, proposals: int, failing: float, parallel: int, rungs: bool, seed: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:

        def go(directory: Path) -> Run:
            problem = Uneven(failing)
            loop = SearchLoop(
                problem,
                Wanderer(problem, seed, probes, proposals),
                directory,
                Limits(None, limit),
                fidelity=TOP,
                promotion=Promotion(finalists, SECOND, seed=1),
                parallel=parallel,
                rungs=Rungs((Fidelity(2, 2),), 2.0) if rungs else NO_RUNGS,
                retries=1,
            )
            drive(loop, np.random.default_rng(seed))
            return load_run(directory)

        run = go(Path(folder) / "whole")
        one = probes + MOST + (4 if rungs else 0)
        assert run.forward_passes < limit + one
        candidates = {t.policy for t in run.trials if t.metrics is not None and t.fidelity == TOP}
        fitting = min(second_measurements(limit, finalists, SECOND_MOST), len(candidates))
        assert len(run.finals) == (fitting if fitting > 1 else 0)
        assert len({trial.policy for trial in run.finals}) == len(run.finals)
        if run.stopped == "forward_passes":
            spent_by_search = run.forward_passes - sum(trial.spend for trial in run.finals)
            assert spent_by_search >= max(limit - finalists * SECOND_MOST, min(limit, finalists * SECOND_MOST))
        else:
            assert run.stopped in ("exhausted", "stalled")
        if parallel == 1:
            lines = (Path(folder) / "whole" / FILE_NAME).read_bytes().splitlines(keepends=True)
            cut = Path(folder) / "cut"
            cut.mkdir()
            (cut / FILE_NAME).write_bytes(b"".join(lines[: 1 + seed % len(lines)]))
            assert go(cut) == run


@given(
    limit=st.integers(1, 30),
    finalists=st.integers(0, 5),
    proposals=st.sampled_from([2, 3, 1000]),
    seed=st.integers(0, 9),
)
@settings(max_examples=30, deadline=None)
def test_a_limit_on_evaluations_holds_for_second_measurements_too(
    limit: int, finalists: int, proposals: int, seed: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        problem = Uneven()
        run = search(
            problem, Wanderer(problem, seed, 0, proposals), evaluations=limit, finalists=finalists, directory=folder
        )
    candidates = {trial.policy for trial in run.trials}
    fitting = min(second_measurements(limit, finalists, 1), len(candidates))
    assert len(run.finals) == (fitting if fitting > 1 else 0)
    assert run.evaluations == len(candidates) + len(run.finals) <= limit
    if run.stopped == "evaluations" and (finalists < 2 or limit <= finalists or limit >= finalists + 2):
        assert run.evaluations == limit


@given(st.integers(1, 500), st.integers(1, 500), st.integers(0, 6), st.integers(1, 30))
def test_more_is_left_of_a_higher_limit(limit: int, more: int, finalists: int, passes: int) -> None:
    (lower, few), (higher, many) = (
        hold_back(Limits(each, 3 * each, 1.0), finalists, passes) for each in (limit, limit + more)
    )
    assert lower.evaluations is not None
    assert lower.forward_passes is not None
    assert higher.evaluations is not None
    assert higher.forward_passes is not None
    assert 1 <= lower.evaluations <= higher.evaluations
    assert 1 <= lower.forward_passes <= higher.forward_passes
    assert few <= many <= finalists
    assert lower.evaluations + few <= limit
    assert lower.forward_passes + few * passes <= 3 * limit


def test_a_method_that_proposes_few_policies_has_its_finalists(tmp_path: Path) -> None:
    problem = Uneven()
    run = search(problem, Wanderer(problem, 0, 5, 3), evaluations=64, finalists=4, directory=tmp_path, fidelity=TOP)
    assert (len(run.trials), len(run.finals), run.stopped) == (3, 3, "exhausted")


def test_a_searcher_that_learns_from_repeats_ends_by_itself_and_only_its_evaluations_count(tmp_path: Path) -> None:
    episodes = STALLED_AFTER + 60

    def go(directory: Path, kind: type[Wanderer] = Student, proposals: int = episodes) -> Run:
        problem = SeparableProblem()
        searcher = kind(problem, 0, 0, proposals)
        searcher.name = "student"
        return search(problem, searcher, evaluations=5, directory=directory)

    run = go(tmp_path / "whole")
    assert (len(run.trials), run.evaluations, run.forward_passes, run.stopped) == (episodes, 2, 2, "exhausted")
    lines = (tmp_path / "whole" / FILE_NAME).read_bytes().splitlines(keepends=True)
    for number, kept in enumerate((50, 2 * STALLED_AFTER + 20, len(lines) - 1)):
        (tmp_path / f"cut{number}").mkdir()
        (tmp_path / f"cut{number}" / FILE_NAME).write_bytes(b"".join(lines[:kept]))
        assert go(tmp_path / f"cut{number}") == run
    assert go(tmp_path / "whole", proposals=0) == run  # read back without its searcher


def test_a_run_of_repeats_that_is_over_is_not_taken_for_stalled(tmp_path: Path) -> None:
    class Late(Student):
        """A third policy at the very end, on which the limit is reached."""

        def ask(self, pending: Sequence[Trial] = ()) -> Policy:
            usual = super().ask(pending)
            return self.problem.space.uniform(4) if self._proposals == 0 else usual

    def go(proposals: int) -> Run:
        problem = SeparableProblem(budget="w4a4")
        return search(problem, Late(problem, 0, 0, proposals), evaluations=3, directory=tmp_path)

    run = go(STALLED_AFTER + 50)
    assert (run.evaluations, run.stopped, len(run.trials)) == (3, "evaluations", STALLED_AFTER + 50)
    assert go(0) == run


@pytest.mark.parametrize(
    ("fewer", "named"),
    [
        (Limits(5), "evaluations"),
        (Limits(None, 30), "forward passes"),
        (Limits(11), "second measurements"),
    ],
)
def test_a_directory_that_holds_more_than_asked_for_is_refused(fewer: Limits, named: str, tmp_path: Path) -> None:
    def go(limits: Limits) -> Run:
        problem = Uneven()
        return search(
            problem,
            make_searcher("random", problem, 0),
            evaluations=limits.evaluations,
            forward_passes=limits.forward_passes,
            finalists=6,
            directory=tmp_path,
            fidelity=TOP,
        )

    run = go(Limits(12))
    before = (tmp_path / FILE_NAME).read_bytes()
    with pytest.raises(BitcertError, match=rf"more {named} than asked for; limits may be raised, not lowered"):
        go(fewer)
    assert (tmp_path / FILE_NAME).read_bytes() == before
    assert go(Limits(12, 10_000)) == run


def test_second_measurements_of_unknown_cost_are_refused_where_a_limit_depends_on_them(tmp_path: Path) -> None:
    class Unknown(SeparableProblem):
        forward_passes = Problem.forward_passes  # type: ignore[assignment]

        def evaluate(self, policy: Policy, fidelity: Fidelity, seed: int = 0) -> Metrics:
            metrics = SeparableProblem().evaluate(policy, fidelity, seed)
            self.meter.charge(metrics.forward_passes)
            return metrics

    problem = Unknown()

    def go(name: str, forward_passes: int | None, finalists: int) -> Run:
        return search(
            problem,
            make_searcher("random", problem, 0),
            evaluations=8,
            forward_passes=forward_passes,
            finalists=finalists,
            directory=tmp_path / name,
        )

    with pytest.raises(BitcertError, match="does not say how many forward passes"):
        go("refused", 100, 2)
    assert len(go("unlimited", None, 2).finals) == 2
    assert go("none", 100, 0).finals == ()
