"""What a search maximizes: reading objectives and radii, and scoring metrics."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from suite.contract.objective import Objective, check_radii, parse_objective, parse_radii
from suite.contract.trial import Metrics
from suite.errors import BitcertError

METRICS = Metrics(
    clean_accuracy=0.9,
    acr=0.4,
    certified_accuracy={0.0: 0.8, 0.25: 0.6, 0.5: 0.1},
    bops=100,
    forward_passes=10,
    seconds=1.0,
    alpha=0.001,
    method="fixed",
)


@pytest.mark.parametrize(
    ("text", "expected", "score"),
    [
        ("acr", Objective("acr", "acr"), 0.4),
        ("clean", Objective("clean", "clean"), 0.9),
        ("certified@0.25", Objective("certified@0.25", "certified", (0.25,)), 0.6),
        ("certified@0,.25,0.5", Objective("certified@0,.25,0.5", "certified", (0.0, 0.25, 0.5)), 0.5),
        ("acr+bops", Objective("acr+bops", "acr", (), pareto=True), 0.4),
        ("certified@0.5+bops", Objective("certified@0.5+bops", "certified", (0.5,), pareto=True), 0.1),
    ],
)
def test_an_objective_is_read_and_scores(text: str, expected: Objective, score: float) -> None:
    objective = parse_objective(text)
    assert objective == expected
    assert objective.score(METRICS) == pytest.approx(score)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ACR",
        "accuracy",
        "acr+",
        "acr+seconds",
        "acr+bops+bops",
        "+bops",
        "certified",
        "certified@",
        "certified@-1",
        "certified@a",
        "clean@0.25",
        "acr bops",
    ],
)
def test_an_objective_that_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(BitcertError, match="is not understood; give acr, clean or certified@"):
        parse_objective(text)


@pytest.mark.parametrize("radii", ["0.5,0.25", "0.25,0.25", "0.25,", ",", "0..1", "1.2.3"])
def test_an_objective_with_radii_out_of_order_is_refused(radii: str) -> None:
    with pytest.raises(BitcertError, match="radii"):
        parse_objective(f"certified@{radii}")


@pytest.mark.parametrize("radii", [(), (-0.1,), (float("nan"),), (0.0, float("inf")), (0.5, 0.5), (1.0, 0.0)])
def test_radii_that_make_no_sense_are_refused(radii: tuple[float, ...]) -> None:
    with pytest.raises(BitcertError, match="radii must be finite numbers >= 0 in ascending order"):
        check_radii(radii)


@given(st.lists(st.floats(0, 1e6), min_size=1, unique=True).map(sorted))
def test_radii_survive_their_text(radii: list[float]) -> None:
    assert parse_radii(",".join(map(repr, radii))) == tuple(radii)
    assert check_radii(tuple(radii)) == tuple(radii)
