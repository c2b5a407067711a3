"""Fidelities, metrics, trials, the meter, seeds, and what is not dominated."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from suite.contract.objective import nondominated, parse_objective
from suite.contract.problem import Meter
from suite.contract.space import Layer, Policy, Precision, SearchSpace
from suite.contract.trial import Fidelity, Metrics, Trial
from suite.errors import BitcertError
from suite.testing.toys import problem_on

POLICY = Policy.from_bits([2], [2])
SHARES = st.floats(0, 1)
METRICS = st.builds(
    Metrics,
    clean_accuracy=st.none() | SHARES,
    acr=st.none() | st.floats(0, 10),
    certified_accuracy=st.none() | st.dictionaries(st.floats(0, 1e9), SHARES),
    bops=st.integers(0, 10**15),
    forward_passes=st.integers(0, 10**12),
    seconds=st.floats(0, 1e6),
    alpha=SHARES,
    method=st.sampled_from(["fixed", "irs"]),
    values=st.dictionaries(st.text(), st.floats(allow_nan=False)),
    norm=st.sampled_from(["l2", "linf", None]),
)


# Fidelity and metrics


@pytest.mark.parametrize("name", ["images", "noise", "finetune_steps"])
@pytest.mark.parametrize("value", [-1, 1.0, "3", None, True])
def test_a_fidelity_that_makes_no_sense_is_refused(name: str, value: object) -> None:
    with pytest.raises(BitcertError, match=f"fidelity {name} must be an integer >= "):
        Fidelity(**{name: value})  # type: ignore[arg-type]


def test_a_fidelity_needs_images_and_noise_but_no_finetuning() -> None:
    assert Fidelity(1, 1, 0) == Fidelity(images=1, noise=1)
    for name in ("images", "noise"):
        with pytest.raises(BitcertError, match=f"{name} must be an integer >= 1, got 0"):
            Fidelity(**{name: 0})


@given(METRICS)
def test_metrics_survive_json(metrics: Metrics) -> None:
    assert Metrics.from_dict(json.loads(json.dumps(metrics.to_dict()))) == metrics


def test_metrics_are_written_with_radii_as_short_text() -> None:
    certified = {0.0: 0.9, 0.25: 0.5, 1.0: 0.25, 0.1234567891: 0.1}
    written = Metrics(0.9, 0.4, certified, 7, 8, 0.5, 0.001, "fixed").to_dict()
    assert written == {
        "clean_accuracy": 0.9,
        "acr": 0.4,
        "certified_accuracy": {"0": 0.9, "0.25": 0.5, "1": 0.25, "0.1234567891": 0.1},
        "bops": 7,
        "forward_passes": 8,
        "seconds": 0.5,
        "alpha": 0.001,
        "method": "fixed",
    }


WRITTEN = Metrics(0.9, 0.4, {0.25: 0.5}, 7, 8, 0.5, 0.001, "fixed").to_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"acr": "0.4"}, "acr of metrics cannot be '0.4'"),
        ({"bops": 7.5}, "bops of metrics cannot be 7.5"),
        ({"bops": True}, "bops of metrics cannot be True"),
        ({"forward_passes": -1}, "counts of metrics start at 0"),
        ({"certified_accuracy": {"x": 0.5}}, "metrics need numbers"),
        ({"certified_accuracy": [0.5]}, "certified_accuracy of metrics cannot be"),
        ({"norm": 2}, "norm of metrics cannot be 2"),
        ({"accuracy": 1.0}, "the metrics have unknown values: accuracy"),
    ],
)
def test_metrics_that_make_no_sense_are_not_read(change: dict[str, object], message: str) -> None:
    with pytest.raises(BitcertError, match=message):
        Metrics.from_dict({**WRITTEN, **change})
    with pytest.raises(BitcertError, match="the metrics lack acr"):
        Metrics.from_dict({name: value for name, value in WRITTEN.items() if name != "acr"})


# Trials


def _trial(number: int, bops: int, acr: float) -> Trial:
    metrics = Metrics(0.5, acr, {}, bops, 5, 0.0, 0.001, "fixed")
    return Trial(number, POLICY, Fidelity(), 0, metrics)


def test_a_trial_spends_what_was_measured_for_it() -> None:
    trial = _trial(0, 10, 0.5)
    assert trial.spend == 5
    assert replace(trial, repeat_of=3).spend == 0
    assert replace(trial, metrics=None).spend == 0
    assert replace(trial, metrics=None, failure="diverged").spend == 0


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), max_size=12), st.integers(0, 3))
def test_nondominated_is_what_no_other_trial_beats(points: list[tuple[int, int]], failed: int) -> None:
    trials = [_trial(number, bops, score / 4) for number, (bops, score) in enumerate(points)]
    trials += [Trial(len(points) + number, POLICY, Fidelity(), 0, failure="no") for number in range(failed)]
    front = nondominated(trials, parse_objective("acr+bops"))
    expected = []
    for number, (bops, score) in enumerate(points):
        beaten = any(
            other_bops <= bops
            and other_score >= score
            and ((other_bops, other_score) != (bops, score) or other < number)
            for other, (other_bops, other_score) in enumerate(points)
        )
        if not beaten:
            expected.append(trials[number])
    assert sorted(front, key=lambda trial: trial.number) == expected
    costs = [trial.metrics.bops for trial in front if trial.metrics]
    assert costs == sorted(costs)


@given(st.lists(st.tuples(*[st.integers(0, 3)] * 3), max_size=14), st.permutations(["bops", "bytes"]))
def test_a_front_of_three_objectives_is_what_no_other_trial_beats(
    points: list[tuple[int, int, int]], costs: list[str]
) -> None:
    trials = [
        replace(trial, metrics=replace(trial.metrics, costs={"bytes": size}))
        for number, (bops, size, score) in enumerate(points)
        if (trial := _trial(number, bops, score / 4)).metrics is not None
    ]
    front = nondominated(trials, parse_objective(f"acr+{costs[0]}+{costs[1]}"))
    losses = [(bops, size, -score) for bops, size, score in points]
    expected = [
        trial
        for number, (trial, mine) in enumerate(zip(trials, losses, strict=True))
        if not any(
            all(a <= b for a, b in zip(other, mine, strict=True)) and (other != mine or place < number)
            for place, other in enumerate(losses)
        )
    ]
    assert sorted(front, key=lambda trial: trial.number) == expected
    found = [tuple(map(trial.metrics.cost, costs)) for trial in front if trial.metrics]
    assert found == sorted(found)


def test_costs_of_metrics_are_kept_and_an_unknown_one_is_refused() -> None:
    metrics = Metrics(0.5, 0.25, {0.5: 0.25}, 10, 5, 0.0, 0.001, "fixed", costs={"bytes": 7})
    assert metrics.to_dict()["costs"] == {"bytes": 7}
    assert Metrics.from_dict(json.loads(json.dumps(metrics.to_dict()))) == metrics
    assert "costs" not in replace(metrics, costs={}).to_dict()
    assert (metrics.cost("bops"), metrics.cost("bytes")) == (10, 7)
    with pytest.raises(BitcertError, match="do not hold the cost 'joules'"):
        metrics.cost("joules")


@pytest.mark.parametrize("costs", [{"bytes": -1}, {"bytes": 1.5}, {"bytes": True}, [7]])
def test_costs_of_metrics_are_counts(costs: object) -> None:
    content = Metrics(0.5, 0.25, {}, 10, 5, 0.0, 0.001, "fixed").to_dict() | {"costs": costs}
    with pytest.raises(BitcertError, match="costs of metrics"):
        Metrics.from_dict(content)


# The meter


def test_the_meter_adds_up_and_never_goes_backward() -> None:
    meter = Meter()
    assert meter.forward_passes == 0
    for charge in (3, 0, 4):
        meter.charge(charge)
    assert meter.forward_passes == 7
    with pytest.raises(ValueError, match="cannot charge -1"):
        meter.charge(-1)
    assert meter.forward_passes == 7
    with pytest.raises(AttributeError):
        meter.forward_passes = 0  # type: ignore[misc]


# The wall of a problem


def test_feasible_is_what_belongs_to_the_space_and_fits_the_budget() -> None:
    layers = (Layer("first", "conv", 10, 1), Layer("second", "conv", 20, 1))
    problem = problem_on(SearchSpace(layers, (2, 4), pins={"first": Precision(8, 8)}), budget=800)
    for weights, activations in product(product((2, 4, 8), repeat=2), repeat=2):
        policy = Policy.from_bits(weights, activations)
        bops = 10 * weights[0] * activations[0] + 20 * weights[1] * activations[1]
        belongs = weights[0] == activations[0] == 8 and 8 not in (weights[1], activations[1])
        assert problem.bops(policy) == bops
        assert problem.is_feasible(policy) == (belongs and bops <= 800)
        if problem.is_feasible(policy):
            problem.check_feasible(policy)
        else:
            reason = (
                "costs 960 BOPs, over the budget of 800" if belongs else "does not belong to the space of separable"
            )
            with pytest.raises(BitcertError, match=reason):
                problem.check_feasible(policy)
