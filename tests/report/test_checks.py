"""A comparison that does not compare like with like is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from suite.contract.objective import parse_objective
from suite.contract.space import Policy
from suite.errors import BitcertError
from suite.report.comparison import Comparison, check_comparison
from suite.report.intervals import compare_outcomes
from suite.run.records import Entry, Outcome, Run


def change_run(comparison: Comparison, change: Callable[[Run], Run]) -> Comparison:
    first, *rest = comparison.entries
    return replace(comparison, entries=(Entry(change(first.run), first.outcome), *rest))


def change_outcome(comparison: Comparison, change: Callable[[Outcome], Outcome]) -> Comparison:
    first, *rest = comparison.entries
    return replace(comparison, entries=(Entry(first.run, change(first.outcome)), *rest))


def test_sound_comparison_passes(small: Comparison, large: Comparison) -> None:
    check_comparison(small)
    check_comparison(large)


def test_empty_comparison_is_refused(small: Comparison) -> None:
    with pytest.raises(BitcertError, match="has no entries"):
        check_comparison(replace(small, entries=()))


def test_repeated_seed_is_refused(small: Comparison) -> None:
    with pytest.raises(BitcertError, match="'random' with seed 0 occurs 2 times"):
        check_comparison(replace(small, entries=(*small.entries, small.entries[0])))


def test_name_of_the_float_network_is_reserved(small: Comparison) -> None:
    with pytest.raises(BitcertError, match="stands for the float network"):
        check_comparison(change_run(small, lambda run: replace(run, searcher="float")))


def test_different_objectives_are_refused(small: Comparison) -> None:
    with pytest.raises(BitcertError, match="different objectives: acr, clean"):
        check_comparison(change_run(small, lambda run: replace(run, objective=parse_objective("clean"))))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda outcome: replace(outcome, post_step="sqwa"), "different post-steps: none, sqwa"),
        (lambda outcome: replace(outcome, image_ids=outcome.image_ids[::-1]), "different images"),
        (lambda outcome: replace(outcome, provenance={"sigma": 0.5}), "different sigma: 0.5 and 0.25"),
        (lambda outcome: replace(outcome, provenance={"network_sha256": "x"}), "different network_sha256"),
        (lambda outcome: replace(outcome, provenance={"exam": {"n": 7}}), "different n: 7 and 1000"),
        (
            lambda outcome: replace(outcome, metrics=replace(outcome.metrics, alpha=0.5)),
            "different alpha: 0.5 and 0.001",
        ),
        (lambda outcome: replace(outcome, metrics=replace(outcome.metrics, bops=10**12)), "over the budget"),
        (lambda outcome: replace(outcome, metrics=replace(outcome.metrics, acr=9.0)), "records ACR 9.0"),
        (lambda outcome: replace(outcome, policy=Policy.from_bits([2], [2])), "not of the best policy"),
        (lambda outcome: replace(outcome, policy=None), "not of the best policy"),
    ],
)
def test_exam_that_stands_apart_is_refused(
    small: Comparison, change: Callable[[Outcome], Outcome], message: str
) -> None:
    with pytest.raises(BitcertError, match=message):
        check_comparison(change_outcome(small, change))


def test_exams_at_different_radii_are_refused(small: Comparison) -> None:
    """A network certified at some radii only seems to beat itself where they lie closer together."""

    def certify(outcome: Outcome, radii: tuple[float, ...]) -> Outcome:
        exact = outcome.certificates
        certificates = replace(exact, radius=np.array([max(r for r in radii if r <= found) for found in exact.radius]))
        metrics = replace(
            outcome.metrics,
            acr=certificates.acr(outcome.labels),
            certified_accuracy=certificates.certified_accuracy(outcome.labels, radii),
            method="sequential",
        )
        return replace(outcome, metrics=metrics, certificates=certificates)

    fine, coarse = (
        certify(small.entries[0].outcome, radii) for radii in (tuple(np.arange(0, 1, 0.125)), (0.0, 0.25, 0.5))
    )
    assert fine.metrics.measured("acr") > coarse.metrics.measured("acr") + 0.02
    message = "different radii: 0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875 and 0, 0.25, 0.5; repeat one"
    with pytest.raises(BitcertError, match=message):
        compare_outcomes(fine, coarse, parse_objective("acr"))
    entries = tuple(replace(entry, outcome=certify(entry.outcome, (0.0, 0.25))) for entry in small.entries)
    sequential = replace(small, entries=entries, reference=certify(small.reference, (0.0, 0.25)))
    check_comparison(sequential)
    with pytest.raises(BitcertError, match="different radii"):
        check_comparison(replace(sequential, reference=certify(small.reference, (0.0, 0.25, 0.5))))


def test_exams_by_different_options_of_a_certifier_are_refused(small: Comparison) -> None:
    def refute(outcome: Outcome) -> Outcome:
        return replace(outcome, metrics=replace(outcome.metrics, method="fixed:option=1"))

    with pytest.raises(BitcertError, match="different methods: fixed:option=1 and fixed"):
        check_comparison(change_outcome(small, refute))
