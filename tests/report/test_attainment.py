"""Hypervolumes and attainment surfaces are those that counting on a grid finds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suite.errors import BitcertError
from suite.report.fronts import attained_share, attainment_surfaces, front_of, hypervolume, relative_hypervolume
from tests.report.fabricated import fabricate

POINTS = st.tuples(st.integers(0, 7), st.integers(0, 7))
FRONTS = st.lists(st.lists(POINTS, max_size=5), min_size=1, max_size=6)


def attains(front: list[tuple[int, int]], score: float, bops: float) -> bool:
    return any(found >= score and cost <= bops for found, cost in front)


@settings(max_examples=80, deadline=None)
@given(st.lists(POINTS, max_size=6))
def test_hypervolume_counts_unit_squares(front: list[tuple[int, int]]) -> None:
    squares = sum(attains(front, score + 1, bops) for score in range(2, 9) for bops in range(6))
    assert hypervolume(front, (2, 6)) == squares


@settings(max_examples=80, deadline=None)
@given(FRONTS, st.sampled_from([0.2, 0.25, 0.5, 0.75, 1.0]))
def test_a_surface_is_what_that_share_of_fronts_attains(fronts: list[list[tuple[int, int]]], share: float) -> None:
    corners = attainment_surfaces(fronts, [share])[share]
    grid = [(score, bops) for score in range(9) for bops in range(9)]
    for (score, bops), found in zip(grid, attained_share(fronts, grid), strict=True):
        counted = sum(attains(front, score, bops) for front in fronts)
        assert found == pytest.approx(counted / len(fronts))
        on_or_below = ((corners[:, 0] >= score) & (corners[:, 1] <= bops)).any()
        assert on_or_below == (counted >= share * len(fronts) - 1e-9)
    assert (np.diff(corners, axis=0) > 0).all()  # corners ascend in both, so none beats another


def test_one_search_is_its_own_surface_and_none_beats_nothing() -> None:
    front = [(0.5, 10), (0.6, 20), (0.55, 30)]
    for corners in attainment_surfaces([front]).values():
        assert corners.tolist() == [[0.5, 10], [0.6, 20]]
    surfaces = attainment_surfaces([front, []], [0.5, 1.0])
    assert (surfaces[0.5].tolist(), surfaces[1.0].shape) == ([[0.5, 10], [0.6, 20]], (0, 2))
    assert (hypervolume([], (0, 40)), hypervolume([(0.5, 50)], (0, 40))) == (0.0, 0.0)


def test_relative_hypervolume_is_one_on_the_true_front() -> None:
    optimum = [(0.5, 10), (0.75, 20)]
    assert relative_hypervolume(optimum, optimum, (0.25, 40)) == 1.0
    assert relative_hypervolume([(0.5, 20)], optimum, (0.25, 40)) == pytest.approx(5 / 12.5)
    with pytest.raises(BitcertError, match="better than the reference"):
        relative_hypervolume(optimum, optimum, (0.9, 40))


def test_the_front_of_a_search_can_be_shown_with_true_scores() -> None:
    run = fabricate(("random",), seeds=1, layers=4, images=20, objective="acr+bops").entries[0].run
    front = front_of(run)
    assert len(front) == len(run.front) > 1
    assert front[:, 0] == pytest.approx([run.score(trial) for trial in run.front])
    assert front[:, 1].tolist() == [trial.metrics.bops for trial in run.front if trial.metrics]
    truths = {trial.policy: float(trial.number) for trial in run.trials}
    assert front_of(run, truths)[:, 0].tolist() == [trial.number for trial in run.front]
    with pytest.raises(BitcertError, match="on the front of random, seed 0, has no true score"):
        front_of(run, {})


def test_surfaces_need_fronts_and_shares_of_them() -> None:
    with pytest.raises(BitcertError, match="no front"):
        attainment_surfaces([])
    for share in (0.0, 50):
        with pytest.raises(BitcertError, match=f"above 0 and at most at 1, got {share:g}"):
            attainment_surfaces([[(1, 1)]], [share])
