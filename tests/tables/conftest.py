"""A small table that all tests of tables share."""

from __future__ import annotations

from pathlib import Path

import pytest

from suite.cli import main

BUILD = ["build-table", "digits-blocks", "--choices", "2,8", "--protocols", "ptq,supernet", "--fidelities", "5x8,10x8"]
BUILD += ["--exam", "10x8", "--budgets", "w4a4", "--probes", "sensitivity-ilp,hawq-v2", "--probe-seeds", "1"]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of 64 policies under two protocols; not to be changed."""
    folder = tmp_path_factory.mktemp("table")
    assert main([*BUILD, "--directory", str(folder / "parts"), "--out", str(folder / "small.parquet"), "--json"]) == 0
    return folder / "small.parquet"
