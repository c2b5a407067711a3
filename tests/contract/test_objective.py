"""What a search maximizes: reading objectives and radii, and scoring metrics."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from suite.contract.objective import (
    ACR,
    CertifiedAccuracy,
    CleanAccuracy,
    Objective,
    check_radii,
    parse_objective,
    parse_radii,
)
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


@dataclass(frozen=True)
class Worst(Objective):
    """An objective from elsewhere."""

    share: float = 1.0

    @property
    def label(self) -> str:
        return "worst"

    def score(self, metrics: Metrics) -> float:
        return self.share * metrics.measured("acr")


LABELS, PREDICTION, RADIUS = np.array([0, 1, 2, 3]), np.array([0, 1, 1, -1]), np.array([0.3, 0.6, 0.9, 0.0])


@pytest.mark.parametrize(
    ("text", "label", "scores"),
    [
        ("acr", "ACR", [0.3, 0.6, 0.0, 0.0]),
        ("certified@0.25", "certified accuracy at 0.25", [1.0, 1.0, 0.0, 0.0]),
        ("certified@0,0.5+bops", "certified accuracy at 0, 0.5", [0.5, 1.0, 0.0, 0.0]),
    ],
)
def test_a_score_is_split_into_images(text: str, label: str, scores: list[float]) -> None:
    objective = parse_objective(text)
    assert objective.label == label
    assert objective.per_image
    assert objective.image_scores(LABELS, PREDICTION, RADIUS).tolist() == scores


@pytest.mark.parametrize("objective", [CleanAccuracy(), Worst()])
def test_what_is_no_mean_over_images_is_not_split(objective: Objective) -> None:
    assert not objective.per_image
    with pytest.raises(BitcertError, match=f"{objective.label} is kept as an average only"):
        objective.image_scores(LABELS, PREDICTION, RADIUS)


@pytest.mark.parametrize(
    ("text", "expected", "score"),
    [
        ("acr", ACR(text="acr"), 0.4),
        ("clean", CleanAccuracy(text="clean"), 0.9),
        ("certified@0.25", CertifiedAccuracy((0.25,), text="certified@0.25"), 0.6),
        ("certified@0,.25,0.5", CertifiedAccuracy((0.0, 0.25, 0.5), text="certified@0,.25,0.5"), 0.5),
        ("certified:radii=[0.25]", CertifiedAccuracy((0.25,), text="certified:radii=[0.25]"), 0.6),
        ("acr+bops", ACR(text="acr+bops", minimized=("bops",)), 0.4),
        ("certified@0.5+bops", CertifiedAccuracy((0.5,), text="certified@0.5+bops", minimized=("bops",)), 0.1),
        (f"{__name__}:Worst:share=0.5", None, 0.2),
    ],
)
def test_an_objective_is_read_and_scores(text: str, expected: Objective | None, score: float) -> None:
    objective = parse_objective(text)
    assert objective == (expected or Worst(0.5, text=text))
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
        "acr:radii=[0.5]",
        "acr:minimized=[]",
        "acr+bytes+bops+bytes",
        "acr+bops:per_mac=[[1]]",
        "acr+bops++bytes",
        "acr+suite.contract.trial:Trial",
        "clean:text=x",
        "certified@\uff10",
        "certified@1_0",
        "certified@" + "0," * 500,
        "suite.contract.trial:Trial",
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
