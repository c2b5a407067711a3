"""Comparisons that several test files look at; read-only."""

from __future__ import annotations

import pandas as pd
import pytest

from suite.report.comparison import Comparison
from suite.report.ranking import leaderboard
from tests.report.fabricated import SIX, TWELVE, fabricate


@pytest.fixture(scope="session")
def small() -> Comparison:
    """Two seeds of six searchers on a small network."""
    return fabricate(SIX, 2, layers=8, images=80, evaluations=10)


@pytest.fixture(scope="session")
def large() -> Comparison:
    """Ten seeds of twelve searchers."""
    return fabricate(TWELVE, 10, layers=8, images=80, evaluations=10)


@pytest.fixture(scope="session")
def small_board(small: Comparison) -> pd.DataFrame:
    """The leaderboard of ``small``."""
    return leaderboard(small)


@pytest.fixture(scope="session")
def large_board(large: Comparison) -> pd.DataFrame:
    """The leaderboard of ``large``."""
    return leaderboard(large)
