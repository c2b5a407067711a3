"""Tables that come with bitcert: exact enough to judge by, about the networks that come with it, and what these measure today."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from suite.cli import main
from suite.errors import BitcertError
from suite.problems import load_problem
from suite.problems.tabular import TabularProblem, load_table
from suite.problems.vision import VisionProblem
from suite.run.registry import make_searcher
from suite.run.state import load_run
from suite.tables.table import find_table

NAMES = ["digits-table", "digits-table:sigma=0.12", "digits-table:sigma=0.5", "digits-table-low"]
COUNTS = dict.fromkeys(NAMES[:3], 4096) | {"digits-table-low": 729}


@pytest.mark.parametrize("name", NAMES)
def test_they_hold_every_policy_several_times_as_exactly_as_policies_differ(name: str) -> None:
    problem = load_table(name)
    assert len(problem.table.policies) == problem.space.cardinality == COUNTS[name]
    assert problem.truth
    ratios = {
        (each["protocol"], each["split"]): each["ratio"]
        for each in problem.table.record["exactness"]
        if each["images"] >= 120 and each["ratio"] is not None
    }
    assert ratios["ptq", "search"] >= 5


@pytest.mark.parametrize(("name", "protocol"), [(NAMES[0], "ptq"), (NAMES[0], "supernet"), (NAMES[2], "ptq")])
def test_networks_measure_today_what_was_recorded(name: str, protocol: str) -> None:
    """Sums in floating point differ between kinds of processors, so a few of 120 images may."""
    table = load_table(name, budget="w4a4", protocol=protocol)
    live = load_problem("digits-blocks", sigma=table.sigma, budget="w4a4", protocol=protocol)
    assert isinstance(live, VisionProblem)
    rng = np.random.default_rng(1)
    for _ in range(3):
        policy = live.space.random(rng)
        recorded = table.evaluate(policy, table.fidelity, seed=1)
        found = live.evaluate(policy, table.fidelity, seed=1)
        assert found.acr == pytest.approx(recorded.measured("acr"), abs=0.02 * table.sigma / 0.25)
        assert (found.bops, found.forward_passes) == (recorded.bops, recorded.forward_passes)


def test_bounds_are_today_what_was_recorded_and_no_noise_is_in_them() -> None:
    """Steps of quantizers are sums in floating point, so weights at the border of two levels may differ between processors."""
    table = load_table("digits-linf-table", budget="w3a3")
    live = load_problem("digits-linf", budget="w4a4")
    assert len(table.table.policies) == table.space.cardinality == 4096
    assert (table.norm, table.truth_error) == ("linf", None)
    rng = np.random.default_rng(1)
    for _ in range(4):
        policy = live.space.random(rng)
        if not live.is_feasible(policy):
            continue
        recorded = table.table.metrics(table.table.row(policy), table.table.column(table.top[0]), live.bops(policy))
        found = live.evaluate(policy, table.fidelity)
        assert found.certified == pytest.approx(recorded.certified, abs=0.02)
        assert (found.alpha, found.norm, found.forward_passes) == (0.0, "linf", recorded.forward_passes)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", ["fit", "hawq-v3", "clado", "sensitivity-ilp", "certified-ilp", "amq"])
def test_methods_that_probe_run_on_them(name: str, method: str) -> None:
    problem = load_table(name, budget="w2a2")
    assert problem.is_feasible(make_searcher(method, problem, 3).ask())


def test_a_name_means_a_table_that_comes_with_bitcert_and_a_path_any_other() -> None:
    by_name, by_path = (
        load_table(name) for name in ("digits-table", f"table:file={find_table('digits-table-sigma0.25')}")
    )
    assert by_name.truth == by_path.truth
    assert by_name.provenance()["problem"] == "table:file=digits-table-sigma0.25"
    with pytest.raises(
        BitcertError, match=r"unknown table 'digits-tabel'; known: .*digits-table-low.*ends in \.parquet"
    ):
        load_table("digits-tabel")
    with pytest.raises(BitcertError, match="separable is no table"):
        load_table("separable")


def test_all_noise_levels_have_the_same_space_and_different_networks() -> None:
    tables = [load_table(name) for name in NAMES[:3]]
    assert len({table.provenance()["network_sha256"] for table in tables}) == 3
    assert all(table.space == tables[0].space for table in tables)
    assert all(isinstance(table, TabularProblem) for table in tables)


@pytest.mark.parametrize("protocol", ["ptq", "supernet", "finetune"])
def test_every_recorded_protocol_is_searched_from_the_shell(
    tmp_path: Path, protocol: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "search",
        "--problem",
        "digits-table-low",
        "--protocol",
        protocol,
        "--searcher",
        "uniform",
        "--budget",
        "w2a2",
    ]
    assert main([*command, "--directory", str(tmp_path), "--json"]) == 0
    assert load_run(tmp_path).provenance["protocol"] == protocol


def test_a_surrogate_of_resnet20_is_searched_without_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("BITCERT_DATA", raising=False)
    assert len(load_table("table:file=resnet20-table").table.policies) >= 1000
    command = [
        "search",
        "--problem",
        "surrogate:file=resnet20-table:policies=300",
        "--budget",
        "w3a3",
        "--searcher",
        "random-filled",
    ]
    assert main([*command, "--evaluations", "8", "--finalists", "0", "--directory", str(tmp_path), "--json"]) == 0
    told = load_run(tmp_path).provenance
    assert told["problem"].startswith("surrogate:")
    assert told["surrogate"]["kendall"] > 0.5
