"""Exact verification: the same verdicts as exhaustive enumeration, and solvers that lie or give up."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.optimize

from suite.certify import interval
from suite.certify.interval import MISCLASSIFIED, certified
from suite.certify.linf import (
    SOLVERS,
    Answer,
    Effort,
    Limit,
    Query,
    attack,
    branching,
    encoding,
    maximum_radius,
    solver_named,
    solvers,
    verify,
)
from suite.certify.linf.solvers import solve_with_highs
from suite.errors import BitcertError
from suite.quantize.fixed_point import FixedPointLayer, FixedPointNetwork, Output
from tests.tiny_networks import LEVELS, Integers, box, random_network, tiny

NO_ATTACK = Effort(restarts=0, seconds=60)
RADII = (1, 2, 3, 5)


@cache
def case(seed: int) -> tuple[FixedPointNetwork, Integers, int]:
    network = random_network(seed, clamped=seed % 2 == 1, odd=seed % 4 < 2)
    image = np.random.default_rng(seed).integers(0, LEVELS + 1, network.image_shape[2])
    return network, image, int(network.predict(image[None])[0])


@cache
def true_radius(seed: int) -> int:
    """The largest radius at which all images of the ball, listed, get the label."""
    network, image, label = case(seed)
    everything = box(image, LEVELS)
    wrong = network.predict(everything) != label
    return int(np.abs(everything - image).max(axis=1)[wrong].min()) - 1 if wrong.any() else LEVELS


def test_the_worked_example_is_robust_up_to_4() -> None:
    found = [verify(tiny(), np.array([8, 6]), 0, radius, NO_ATTACK) for radius in range(6)]
    assert [verdict.status for verdict in found] == ["robust"] * 5 + ["not robust"]
    assert [verdict.by for verdict in found] == ["bounds"] * 4 + ["cp-sat"] * 2
    assert maximum_radius(tiny(), np.array([8, 6]), 0).robust == 4


@pytest.mark.parametrize("first", range(0, 200, 25))
@pytest.mark.parametrize("solver", ["cp-sat", "branch"])
def test_verdicts_equal_enumeration(solver: str, first: int) -> None:
    solved = 0
    for seed in range(first, first + 25):
        network, image, label = case(seed)
        for radius in RADII:
            found = verify(network, image, label, radius, replace(NO_ATTACK, solver=solver))
            assert (found.status == "robust") == (radius <= true_radius(seed)), (seed, radius)
            assert found.status != "unknown"
            if found.counterexample is not None:
                point = np.array(found.counterexample)
                assert np.abs(point - image).max() <= radius
                assert network.predict(point[None])[0] != label
            solved += found.by == solver
    assert solved > 10


def test_attacks_never_contradict_enumeration_and_find_most_of_what_is_there() -> None:
    found = missed = 0
    for seed in range(100):
        network, image, label = case(seed)
        for radius in RADII:
            point = attack(Query.around(network, image, label, radius), seed=seed)
            broken = radius > true_radius(seed)
            assert broken or point is None
            found += broken and point is not None
            missed += broken and point is None
    assert found > 4 * missed


def test_a_second_opinion_agrees() -> None:
    opinions = []
    for seed in range(24):
        network, image, label = case(seed)
        for radius in RADII:
            opinions.append(verify(network, image, label, radius, replace(NO_ATTACK, second=True)).opinion)
    assert set(opinions) == {None, "agrees"}
    assert opinions.count("agrees") > 10


def test_convolutions_are_encoded_as_they_are_executed() -> None:
    solved = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        bias = 2 * rng.integers(-200, 200, 3) + 1
        first = FixedPointLayer("conv", rng.integers(-8, 8, (3, 1, 2, 2)), bias, 4, 3, 8, Output(4, 4), (1, 1), (1, 0))
        last = FixedPointLayer("fc", rng.integers(-8, 8, (3, 9)), rng.integers(-20, 20, 3), 4, 3, 5)
        network = FixedPointNetwork([first, last], (1, 2, 2), levels=LEVELS, input_fraction=4)
        image = rng.integers(0, 16, 4)
        label = int(network.predict(image[None])[0])
        for radius in (1, 2, 3):
            robust = (network.predict(box(image, radius)) == label).all()
            for solver in SOLVERS:
                found = verify(network, image, label, radius, replace(NO_ATTACK, solver=solver, second=True))
                assert found.status == ("robust" if robust else "not robust")
                solved += found.by == solver
    assert solved > 10


def saturated(first: int, second: int) -> FixedPointNetwork:
    """Two outputs clamped to 0..7, the input times a factor each."""
    weight = np.array([[first], [second]])
    last = FixedPointLayer("last", weight, np.zeros(2, np.int64), 3, 0, 0, Output(3, 0))
    return FixedPointNetwork([last], (1, 1, 1), levels=15, input_fraction=0, rounding="half-up")


@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_ties_of_outputs_at_their_limit_go_to_the_first_class(solver: str) -> None:
    """Outputs (x, 2x): both are 7 from x = 7 on, where the first class wins, so class 1 at x = 5 breaks at 7."""
    effort = replace(NO_ATTACK, solver=solver)
    found = [verify(saturated(1, 2), np.array([5]), 1, radius, effort).status for radius in (1, 2)]
    assert found == ["robust", "not robust"]
    assert {verify(saturated(2, 1), np.array([5]), 0, radius, effort).status for radius in (1, 2, 10)} == {"robust"}


def test_an_image_with_another_prediction_is_its_own_counterexample() -> None:
    found = verify(tiny(), np.array([8, 6]), 1, 0)
    assert (found.status, found.by, found.counterexample) == ("not robust", "network", (8, 6))
    radius = maximum_radius(tiny(), np.array([8, 6]), 1)
    assert (radius.robust, radius.broken, radius.exact) == (MISCLASSIFIED, 0, True)


def undecided(query: Query, limit: Limit, workers: int) -> Answer:
    return Answer.unknown()


def outside(query: Query, limit: Limit, workers: int) -> Answer:
    return Answer(query.low - 1, complete=True)


def the_image_itself(query: Query, limit: Limit, workers: int) -> Answer:
    return Answer((query.low + query.high) // 2, complete=True)


def test_a_solver_that_runs_out_of_time_leaves_an_image_unknown() -> None:
    assert verify(tiny(), np.array([8, 6]), 0, 4, NO_ATTACK, solver=undecided).status == "unknown"
    open_ = maximum_radius(tiny(), np.array([8, 6]), 0, NO_ATTACK, solver=undecided)
    assert (open_.robust, open_.broken, open_.exact) == (3, None, False)


@pytest.mark.parametrize("liar", [outside, the_image_itself])
def test_a_solver_whose_counterexample_is_none_is_caught(liar: Any) -> None:
    with pytest.raises(RuntimeError, match="does not confirm"):
        verify(tiny(), np.array([8, 6]), 0, 4, NO_ATTACK, solver=liar)


def test_a_proof_that_highs_refutes_is_caught() -> None:
    def proves_everything(query: Query, limit: Limit, workers: int) -> Answer:
        return Answer(None, complete=True)

    with pytest.raises(RuntimeError, match="HiGHS found a counterexample"):
        verify(tiny(), np.array([8, 6]), 0, 5, replace(NO_ATTACK, second=True), solver=proves_everything)


def test_an_encoding_that_rounds_off_by_one_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = encoding._matrix

    def wrong(*given: Any) -> Any:
        weight, offset = right(*given)
        return weight, offset - 2

    monkeypatch.setattr(encoding, "_matrix", wrong)
    caught = 0
    for seed in range(60):
        network, image, label = case(seed)
        for radius in RADII:
            try:
                found = verify(network, image, label, radius, NO_ATTACK)
            except RuntimeError:
                caught += 1
            else:
                caught += (found.status == "robust") != (radius <= true_radius(seed))
    assert caught


def test_bisection_finds_the_maximum_radius_that_a_scan_finds() -> None:
    for seed in range(40):
        network, image, label = case(seed)
        for effort in (NO_ATTACK, Effort(restarts=8, steps=8)):
            found = maximum_radius(network, image, label, effort)
            assert found.exact
            assert found.robust == true_radius(seed)
            if found.broken is not None:
                assert np.abs(np.array(found.counterexample) - image).max() == found.broken
            proven = certified(network, image[None], np.array([label]), true_radius(seed) + 1)
            assert true_radius(seed) == LEVELS or not proven[0]


def test_a_radius_that_stays_open_is_bracketed_from_both_sides() -> None:
    """A solver that fails at radius 3 to 5 only: everything below and above it is still decided."""

    def fails(query: Query, limit: Limit, workers: int) -> Answer:
        radius = int((query.high - query.low).max() + 1) // 2
        return Answer.unknown() if 3 <= radius <= 5 else SOLVERS["branch"](query, limit, workers)

    seen = set()
    for seed in range(60):
        network, image, label = case(seed)
        if not (image >= 4).all() or not (image <= 11).all():
            continue
        found = maximum_radius(network, image, label, NO_ATTACK, solver=fails)
        top = LEVELS + 1 if found.broken is None else found.broken
        assert found.robust <= true_radius(seed) < top
        assert found.exact or found.robust <= 2 or top >= 6
        seen.add(found.exact)
    assert seen == {True, False}


def test_highs_reports_only_points_that_the_network_confirms(monkeypatch: pytest.MonkeyPatch) -> None:
    queries = [Query.around(*case(seed), radius) for seed in range(40) for radius in RADII]
    asked = [(query, SOLVERS["branch"](query, Limit(60.0), 1)) for query in queries if query.targets]
    assert len(asked) > 10
    for query, truth in asked:
        answer = solve_with_highs(query, Limit(60.0), 1)
        assert answer.complete
        assert (answer.point is None) == (truth.point is None)
        assert answer.point is None or query.breaks(answer.point)
    query = asked[0][0]
    for point, status in ((None, 1), (query.low - 0.5, 0), (query.high + 1.0, 0)):
        monkeypatch.setattr(scipy.optimize, "milp", lambda *_, x=point, s=status, **__: SimpleNamespace(x=x, status=s))
        assert solve_with_highs(query, Limit(60.0), 1) == Answer.unknown()


def test_branching_bounds_as_many_boxes_as_its_work_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    query = next(q for seed in range(40) if (q := Query.around(*case(seed), 5)).targets and needed(q) > 8)
    counted: list[int] = []
    bound = interval.margins_between

    def counting(network: FixedPointNetwork, low: Integers, *given: Any) -> Any:
        counted.append(len(low))
        return bound(network, low, *given)

    monkeypatch.setattr(branching, "margins_between", counting)
    for boxes in (0.5, 1, 2, 7):
        counted.clear()
        limit = Limit(work=boxes / branching.BOXES_PER_WORK)
        assert branching.solve_by_branching(query, limit, 1) == Answer.unknown()
        assert sum(counted) == int(boxes)


def needed(query: Query) -> int:
    """Boxes after which branching has an answer: a power of two, or 512 if 16 are too few."""
    enough = (Limit(work=boxes / branching.BOXES_PER_WORK) for boxes in (1, 2, 4, 8, 16))
    answers = [branching.solve_by_branching(query, limit, 1).complete for limit in enough]
    return 2 ** answers.index(True) if any(answers) else 512


def test_the_targets_of_a_query_share_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of three targets takes 0.4: the third gets what the others left, and no query takes more than its limit."""
    query = replace(Query.around(*case(0), 1), targets=(1, 2, 0))
    given: list[float] = []

    def solve(_: Query, target: int, limit: Limit, workers: int) -> tuple[Answer, float]:
        given.append(limit.work)
        return Answer(None, complete=True), 0.4

    monkeypatch.setattr(solvers, "_cp_sat", solve)
    assert solvers.solve_with_cp_sat(query, Limit(work=1.0), 1).complete
    assert given == pytest.approx([1.0, 0.6, 0.2])
    given.clear()
    assert solvers.solve_with_cp_sat(query, Limit(work=0.7), 1) == Answer.unknown()
    assert given == pytest.approx([0.7, 0.3])


def test_unknown_and_missing_solvers_and_impossible_efforts_are_mistakes(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BitcertError, match="unknown solver 'cpsat'; known: cp-sat, branch"):
        solver_named("cpsat")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BitcertError, match=r"pip install 'bitcert\[exact\]'"):
        verify(tiny(), np.array([8, 6]), 0, 4)
    assert verify(tiny(), np.array([8, 6]), 0, 4, Effort(solver="branch")).status == "robust"
    with pytest.raises(BitcertError, match="seconds must be a positive number"):
        Effort(seconds=0.0)
    with pytest.raises(BitcertError, match="work must be a positive number"):
        Effort(work=-1.0)
    with pytest.raises(BitcertError, match="a solver needs a limit"):
        Effort(seconds=None)
    for more in ({"workers": 2}, {"second": True}):
        with pytest.raises(BitcertError, match="work is counted on one thread"):
            Effort(work=1.0, **more)
    with pytest.raises(BitcertError, match="levels >= 0"):
        verify(tiny(), np.array([8, 6]), 0, -1, Effort(solver="branch"))
