"""Tables of measured policies: built in parts, read with care, replayed as the network would answer."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from suite.cli import main
from suite.contract.trial import Fidelity
from suite.errors import BitcertError
from suite.files import read_sealed, write_sealed
from suite.problems import load_problem
from suite.problems.network_probes import NetworkProbes
from suite.problems.tabular import TabularProblem
from suite.problems.vision import VisionProblem
from suite.run.registry import make_searcher
from suite.run.state import load_run
from suite.studies.build_table.build import exactness
from suite.studies.search.run import search
from suite.tables.series import Series
from suite.tables.table import write_table
from tests.tables.conftest import BUILD

SMALL, TOP = Fidelity(images=5, noise=8), Fidelity(images=10, noise=8)


@pytest.fixture
def copied(built: Path, tmp_path: Path) -> Path:
    """The table, to be damaged."""
    for file in built.parent.glob("small.*"):
        shutil.copy(file, tmp_path)
    return tmp_path / built.name


def replayed(file: Path, **settings: Any) -> TabularProblem:
    problem = load_problem(f"table:file={file}", **settings)
    assert isinstance(problem, TabularProblem)
    return problem


@pytest.mark.parametrize("protocol", ["ptq", "supernet"])
def test_replayed_evaluations_are_those_of_the_network_bit_for_bit(built: Path, protocol: str) -> None:
    table = replayed(built, budget="w8a8", protocol=protocol)
    live = load_problem("digits-blocks", choices=(2, 8), budget="w8a8", protocol=protocol)
    rng = np.random.default_rng(0)
    for fidelity, seed in ((SMALL, 0), (TOP, 1)):
        policy = live.space.random(rng)
        before = table.clock.now()
        found, expected = (problem.evaluate(policy, fidelity, seed) for problem in (table, live))
        assert replace(found, seconds=0.0) == replace(expected, seconds=0.0)
        assert table.clock.now() - before == found.seconds > 0
    assert table.meter.forward_passes == live.meter.forward_passes > 0
    policy = live.space.uniform(2)
    assert table.evaluate(policy, TOP, seed=4) == table.evaluate(policy, TOP, seed=0)
    assert table.evaluate(policy, TOP, seed=3).acr != table.evaluate(policy, TOP, seed=0).acr


def test_the_truth_is_the_score_on_images_that_no_search_sees(built: Path) -> None:
    problem = replayed(built, budget="w4a4")
    assert problem.table.is_complete
    assert len(problem.truth) == sum(problem.is_feasible(policy) for policy in problem.table.policies) < 64
    live = load_problem("digits-blocks", choices=(2, 8), budget="w4a4")
    assert isinstance(live, VisionProblem)
    policy = next(iter(problem.truth))
    assert problem.truth[policy] == live.measure_on(live.setup.task(TOP, 0, "exam"), policy).acr


def test_series_of_a_protocol_that_trains_have_its_steps_and_examine_another_training(tmp_path: Path) -> None:
    file = tmp_path / "trained.parquet"
    command = [
        "build-table",
        "digits-blocks",
        "--protocols",
        "ptq,finetune",
        "--finetune-steps",
        "2",
        "--policies",
        "3",
    ]
    command += ["--budgets", "w1.5a1.5", "--fidelities", "5x8", "--noise-seeds", "1", "--exam", "5x8"]
    assert main([*command, "--directory", str(tmp_path / "parts"), "--out", str(file), "--json"]) == 0
    table = replayed(file, protocol="finetune")
    live = load_problem("digits-blocks", protocol="finetune")
    policy, fidelity = table.table.policies[1], Fidelity(images=5, noise=8, finetune_steps=2)
    assert table.default_fidelity() == fidelity
    found, expected = (problem.evaluate(policy, fidelity) for problem in (table, live))
    assert replace(found, seconds=0.0) == replace(expected, seconds=0.0)
    assert Series("finetune", "exam", 5, 8, seed=1, steps=2) in table.table.series
    with pytest.raises(BitcertError, match="it has 5x8 after 2 steps under finetune"):
        table.check_fidelity(Fidelity(images=5, noise=8))
    assert replayed(file).default_fidelity() == Fidelity(images=5, noise=8)


def test_the_error_of_true_scores_is_that_of_the_mean_over_noises(built: Path, copied: Path) -> None:
    assert replayed(built).truth_error is None  # one exam noise
    record = read_sealed(copied.with_suffix(".json"), "a table's record")
    for each in record["exactness"]:
        if each["split"] == "exam":
            each |= {"error": 0.02, "seeds": 4}
    write_sealed(copied.with_suffix(".json"), record)
    assert replayed(copied).truth_error == pytest.approx(0.01)
    assert replayed(copied, objective="clean").truth_error is None


@pytest.mark.parametrize("protocol", ["ptq", "supernet"])
def test_the_score_of_a_constant_is_recorded(built: Path, protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    live = load_problem("digits-blocks", choices=(2, 8), budget="w8a8", protocol=protocol)
    expected = [live.constant_score(fidelity, seed) for fidelity in (SMALL, TOP) for seed in (0, 1)]
    table = replayed(built, budget="w8a8", protocol=protocol)
    monkeypatch.setattr(TabularProblem, "bench", None)  # replays need no images
    found = [table.constant_score(fidelity, seed) for fidelity in (SMALL, TOP) for seed in (0, 1)]
    assert found == expected
    assert found[0] != found[2]


@pytest.mark.parametrize("method", ["sensitivity-ilp", "hawq-v2"])
def test_sensitivity_methods_propose_what_they_propose_on_the_network_and_are_charged_alike(
    built: Path, method: str
) -> None:
    table, live = replayed(built, budget="w4a4"), load_problem("digits-blocks", choices=(2, 8), budget="w4a4")
    proposed = [make_searcher(method, problem, 0).ask() for problem in (table, live)]
    assert proposed[0] == proposed[1]
    assert table.meter.forward_passes == live.meter.forward_passes > 0
    assert make_searcher(method, table, 5).ask() == proposed[0]  # one seed was recorded


@pytest.mark.parametrize("method", ["fit", "sensitivity-ilp:images=64"])
def test_probes_that_were_not_recorded_are_refused(built: Path, method: str) -> None:
    with pytest.raises(BitcertError, match="has no answer to the probe"):
        make_searcher(method, replayed(built, budget="w4a4"), 0).ask()


@pytest.mark.parametrize("name", ["tpe", "evolution", "random-filled", "uniform"])
def test_searches_run_and_resume_as_on_any_problem(built: Path, tmp_path: Path, name: str) -> None:
    def run(evaluations: int, folder: str) -> Any:
        problem = replayed(built, budget="w4a4")
        searcher = make_searcher(name, problem, 0)
        return search(problem, searcher, evaluations=evaluations, directory=tmp_path / folder, finalists=0)

    whole = run(14, "whole")
    run(8, "parts")
    assert run(14, "parts") == whole
    assert all(problem_has(built, trial.policy) for trial in whole.trials)


@pytest.mark.parametrize("options", [["--rungs", "5x8", "--reduction", "2"], ["--objective", "acr+bops"]])
def test_rungs_and_several_objectives_run_on_it(
    built: Path, tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "search",
        "--problem",
        f"table:file={built}",
        "--budget",
        "w6a6",
        "--searcher",
        "nsga2",
        "--evaluations",
        "12",
    ]
    command += ["--images", "10", "--noise", "8", "--finalists", "0", "--directory", str(tmp_path / "run"), "--json"]
    assert main([*command, *options]) == 0
    fidelities = {trial.fidelity for trial in load_run(tmp_path / "run").trials}
    assert fidelities == ({SMALL, TOP} if "--rungs" in options else {TOP})
    if "--objective" in options:
        front = load_run(tmp_path / "run").front
        assert len({trial.policy for trial in front}) == len(front) > 1


def problem_has(file: Path, policy: Any) -> bool:
    return policy in replayed(file, budget="w4a4").truth


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def _lose_a_policy(file: Path) -> None:
    record = read_sealed(file.with_suffix(".json"), "a table's record")
    frame = pd.read_parquet(file)
    write_table(file, record, frame[frame["policy"] != "010101"])


def _change(file: Path, **changes: Any) -> None:
    record = file.with_suffix(".json")
    write_sealed(record, read_sealed(record, "a table's record") | changes)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_flip, "is damaged"),
        (_lose_a_policy, "lacks measurements"),
        (lambda file: _change(file, schema=99), "has schema 99"),
        (lambda file: _change(file, network_sha256="0" * 64), "another network"),
        (lambda file: _change(file, space_sha256="0" * 64), "about other policies"),
        (lambda file: file.unlink(), "there is no table"),
        (lambda file: file.with_suffix(".json").write_text("{}"), "no checksum"),
    ],
)
def test_a_table_that_cannot_be_trusted_is_refused_in_one_line(
    copied: Path, damage: Callable[[Path], None], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(copied)
    command = ["search", "--problem", f"table:file={copied}", "--searcher", "random", "--budget", "w4a4"]
    assert main([*command, "--evaluations", "2", "--directory", str(copied.parent / "run")]) == 2
    shown = capsys.readouterr().err
    assert reason in shown
    assert shown.count("\n") == 1


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"sigma": 0.5}, "was recorded at sigma 0.25"),
        ({"protocol": "finetune"}, "has no measurements under finetune"),
        ({"seed": 3}, "with the problem's seed 0"),
    ],
)
def test_what_a_table_was_not_recorded_with_is_refused(built: Path, settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(BitcertError, match=reason):
        replayed(built, **settings)


def test_a_fidelity_that_was_not_recorded_is_refused(built: Path) -> None:
    with pytest.raises(BitcertError, match="it has 5x8, 10x8"):
        replayed(built).check_fidelity(Fidelity(images=7, noise=8))


def test_parts_are_kept_and_batches_make_the_same_table(built: Path, tmp_path: Path) -> None:
    command = ["build-table", "digits-blocks", "--choices", "2,8", "--fidelities", "5x8", "--noise-seeds", "2"]
    command += ["--directory", str(tmp_path / "parts"), "--out", str(tmp_path / "whole.parquet"), "--json"]
    assert main([*command, "--batch", "1/2"]) == 0
    kept = sorted((tmp_path / "parts" / "parts").iterdir())
    assert len(kept) == 1
    assert not (tmp_path / "whole.parquet").exists()
    written = kept[0].stat().st_mtime_ns
    assert main([*command, "--batch", "2/2"]) == 0
    assert kept[0].stat().st_mtime_ns == written
    found, expected = (pd.read_parquet(file) for file in (tmp_path / "whole.parquet", built))
    expected = expected[expected["series"].isin([0, 1])].reset_index(drop=True)
    pd.testing.assert_frame_equal(found.drop(columns="seconds"), expected.drop(columns="seconds"))
    assert main(command) == 2  # it exists


def test_nothing_is_measured_or_probed_twice(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(built.parent / "parts", tmp_path / "parts")
    measure = VisionProblem.measure_on

    def only_the_float_network(self: VisionProblem, task: Any, policy: Any, *steps: int, **seed: int) -> Any:
        assert policy is None
        return measure(self, task, policy, *steps, **seed)

    def never(*_: object) -> None:
        raise AssertionError("probed again")

    monkeypatch.setattr(VisionProblem, "measure_on", only_the_float_network)
    for probe in ("measure", "derivatives", "perturbations"):
        monkeypatch.setattr(NetworkProbes, probe, never)
    again = tmp_path / "again.parquet"
    assert main([*BUILD, "--directory", str(tmp_path / "parts"), "--out", str(again), "--json"]) == 0
    pd.testing.assert_frame_equal(pd.read_parquet(again), pd.read_parquet(built))
    assert (tmp_path / "again.probes.json").read_text() == (built.parent / "small.probes.json").read_text()


def test_tables_need_a_small_space_or_a_number_of_policies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["build-table", "digits", "--directory", str(tmp_path), "--out", str(tmp_path / "a.parquet")]
    assert main(command) == 2
    assert "more than the 1,000,000 of a complete table" in capsys.readouterr().err
    assert main([*command, "--policies", "3"]) == 2
    assert "name them" in capsys.readouterr().err
    assert main([*command, "--fidelities", "3y4"]) == 2
    assert "sizes are written as IMAGESxNOISE" in capsys.readouterr().err
    assert main(["build-table", "separable", "--out", str(tmp_path / "a.parquet")]) == 2
    assert main(["build-table", "digits-blocks", "--out", str(tmp_path / "a.csv")]) == 2
    assert not list(tmp_path.iterdir())


def test_drawn_policies_lie_just_below_their_budgets(tmp_path: Path) -> None:
    file = tmp_path / "drawn.parquet"
    command = ["build-table", "digits", "--policies", "5", "--budgets", "w4a4", "--fidelities", "5x8"]
    assert (
        main([*command, "--noise-seeds", "1", "--directory", str(tmp_path / "parts"), "--out", str(file), "--json"])
        == 0
    )
    problem = replayed(file, budget="w4a4")
    assert len(problem.table.policies) == 5
    assert all(0.99 <= problem.bops(policy) / problem.budget.limits[0].most <= 1 for policy in problem.table.policies)
    assert problem.truth == {}
    with pytest.raises(BitcertError, match="no measurement of the policy"):
        problem.evaluate(problem.space.uniform(2), Fidelity(images=5, noise=8))


def test_the_record_says_how_exact_entries_are() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(0.3, 0.05, 4000)
    series = [Series("ptq", "search", 60, 16, seed) for seed in range(3)]
    frame = pd.concat(
        [
            pd.DataFrame({"acr": truth + rng.normal(0, 0.01, 4000) + number / 10, "series": number})
            for number in range(3)
        ]
    )  # what a noise moves all policies by is no error of their comparison
    (found,) = exactness(frame, series)
    assert found["spread"] == pytest.approx(0.05, rel=0.05)
    assert found["error"] == pytest.approx(0.01, rel=0.05)
    assert found["ratio"] == pytest.approx(5, rel=0.07)
