"""Averages of certificates, against sums written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from suite.certify import Certificates

ROWS = st.lists(
    st.tuples(st.integers(-1, 3), st.integers(0, 3), st.sampled_from([0.0, 0.25, 0.3, 0.5, 1.7])), min_size=1
)


@given(ROWS)
def test_averages_count_only_right_predictions(rows: list[tuple[int, int, float]]) -> None:
    predictions, labels, radii = (np.array(column) for column in zip(*rows, strict=True))
    radii = np.where(predictions == -1, 0.0, radii)
    certificates = Certificates(predictions, radii, np.full(len(rows), 0.9), np.full(len(rows), 7))
    scores = [float(r) if p == y else 0.0 for p, y, r in zip(predictions, labels, radii, strict=True)]
    assert certificates.scores(labels).tolist() == scores
    assert certificates.acr(labels) == pytest.approx(sum(scores) / len(scores))
    shares = certificates.certified_accuracy(labels, (0.0, 0.25, 1.0))
    for radius, share in shares.items():
        right = [p == y and r >= radius for p, y, r in zip(predictions, labels, radii, strict=True)]
        assert share == pytest.approx(sum(right) / len(right))
    assert list(shares) == [0.0, 0.25, 1.0]
    assert shares[0.0] >= shares[0.25] >= shares[1.0]


def test_an_image_that_abstains_is_never_right() -> None:
    certificates = Certificates(np.array([-1, 0]), np.zeros(2), np.array([0.4, 0.6]), np.array([5, 5]))
    assert certificates.certified_accuracy(np.array([0, 0]), [0.0]) == {0.0: 0.5}
