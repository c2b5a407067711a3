"""Every registered name leads to a searcher, and listing the names loads none."""

import importlib
import subprocess
import sys

import pytest

from baselines import BASELINES
from searchers import SEARCHERS
from suite.contract.searcher import Searcher


@pytest.mark.parametrize("place", [*SEARCHERS.values(), *BASELINES.values()])
def test_name_leads_to_a_searcher(place: str) -> None:
    module, _, name = place.partition(":")
    assert issubclass(getattr(importlib.import_module(module), name), Searcher)


def test_names_are_unique() -> None:
    assert not SEARCHERS.keys() & BASELINES.keys()


def test_listing_names_loads_nothing_heavy() -> None:
    check = (
        "import sys, searchers, baselines; sys.exit(any(name in sys.modules for name in ('numpy', 'optuna', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
