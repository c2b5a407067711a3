"""Surrogates: they predict what they were not fitted to, say how well, reproduce noise, and carry their name everywhere."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from suite.cli import main
from suite.contract.trial import Fidelity
from suite.errors import BitcertError
from suite.problems import load_problem
from suite.problems.surrogate import SurrogateProblem
from suite.problems.tabular import TabularProblem
from suite.tables.surrogate import fit
from tests.tables.test_landscape import written

TOP = Fidelity(images=10, noise=8)


def scores(vectors: np.ndarray) -> np.ndarray:
    found: np.ndarray = 0.5 - (2.0**-vectors @ np.array([0.3, 0.2, 0.1, 0.05])) + 0.02 * vectors[:, 0] * vectors[:, 1]
    return found


def test_policies_left_out_are_predicted_with_the_uncertainty_that_they_deserve() -> None:
    rng = np.random.default_rng(0)
    vectors = np.array(list(itertools.product(range(4), repeat=4)))
    order = rng.permutation(len(vectors))
    known, unknown = order[:120], order[120:]
    noise = 0.01
    measured = scores(vectors[known]) + rng.normal(0, noise, len(known))
    found = fit(vectors[known], measured, noise)
    mean, deviation = found.predict(vectors[unknown])
    errors = mean - scores(vectors[unknown])
    assert np.sqrt(np.mean(errors**2)) < noise
    covered = int(np.sum(np.abs(errors) <= 1.96 * deviation))
    assert stats.binomtest(covered, len(errors), 0.95).pvalue > 1e-4
    assert found.error == pytest.approx(np.hypot(noise, np.sqrt(np.mean(errors**2))), rel=0.3)
    expected = stats.kendalltau(scores(vectors[known]), measured).statistic
    assert found.kendall == pytest.approx(expected, abs=0.05)
    free = fit(vectors[known], measured, None)
    assert free.noise == pytest.approx(noise, rel=0.4)


def test_scores_without_a_pattern_are_not_predicted() -> None:
    vectors = np.array(list(itertools.product(range(4), repeat=4)))
    found = fit(vectors, np.random.default_rng(0).normal(size=len(vectors)), None)
    assert abs(found.kendall) < 0.2


def surrogate(file: Path, policies: int, **settings: object) -> SurrogateProblem:
    problem = load_problem(f"surrogate:file={file}:policies={policies}", **settings)  # type: ignore[arg-type]
    assert isinstance(problem, SurrogateProblem)
    return problem


@pytest.fixture(scope="module")
def smooth(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table whose scores follow a pattern."""
    weights = np.array([1.0, 2.0, 3.0, 1.5, 0.5, 0.2])
    return written(built, tmp_path_factory.mktemp("smooth"), lambda bits: 0.2 + bits @ weights / 40)


def test_what_is_made_with_a_surrogate_says_so_and_how_good_it_is(smooth: Path) -> None:
    problem = surrogate(smooth, 40, budget="w6a6")
    record = problem.provenance()
    assert record["problem"].startswith("surrogate:")
    assert record["surrogate"]["policies"] == 40
    assert record["surrogate"]["kendall"] > 0.9
    truth = load_problem(f"table:file={smooth}", budget="w6a6")
    assert isinstance(truth, TabularProblem)
    assert problem.truth.keys() == truth.truth.keys()
    policies = list(truth.truth)
    tau = stats.kendalltau(
        [problem.truth[each] for each in policies], [truth.truth[each] for each in policies]
    ).statistic
    assert tau > 0.9


def test_noise_is_that_of_entries_and_a_function_of_policy_and_seed(built: Path) -> None:
    problem = surrogate(built, 40, budget="w8a8")
    policy = problem.space.uniform(2)
    drawn = np.array([problem.evaluate(policy, TOP, seed).acr for seed in range(300)], dtype=float)
    assert drawn[7] == problem.evaluate(policy, TOP, 7).acr
    entries = problem.table.values["acr"][problem.rows][:, problem._columns(TOP)]
    assert drawn.std() == pytest.approx(np.sqrt(entries.var(axis=1, ddof=1).mean()), rel=0.15)
    metrics = problem.evaluate(policy, TOP)
    assert metrics.bops == problem.bops(policy)
    assert 0 <= metrics.clean_accuracy <= 1  # type: ignore[operator]
    assert metrics.forward_passes == np.median(problem.table.values["forward_passes"][:, problem._columns(TOP)])


@pytest.mark.usefixtures("no_figures")
def test_methods_are_ranked_on_a_surrogate_as_on_its_table(
    smooth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    orders: list[dict[str, float]] = []
    for name in (f"table:file={smooth}", f"surrogate:file={smooth}:policies=40"):
        command = ["replay", "--tables", name, "--budgets", "w6a6", "--searchers", "random-filled,cheapest,evolution"]
        command += ["--seeds", "4", "--evaluations", "12", "--executor", "inline", "--json"]
        assert main([*command, "--directory", str(tmp_path / str(len(orders)))]) == 0
        found = json.loads(capsys.readouterr().out)
        orders.append({row["searcher"]: row["score"] for row in found["overall"]})
    assert min(orders[0], key=orders[0].__getitem__) == min(orders[1], key=orders[1].__getitem__) == "cheapest"


@pytest.mark.parametrize(("policies", "reason"), [(5, "10 policies or more"), (65, "has 64")])
def test_surrogates_of_too_few_policies_are_refused(smooth: Path, policies: int, reason: str) -> None:
    with pytest.raises(BitcertError, match=reason):
        surrogate(smooth, policies).provenance()
