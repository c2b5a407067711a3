"""Portfolios: chosen greedily on other networks' tables, never on the target's own."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchers.portfolio import choose_portfolio, greedy_cover, source_scores
from searchers.ranking_ensemble import ranking_weights
from suite.contract.problem import Problem
from suite.contract.searcher import Exhausted, Searcher
from suite.contract.space import Policy
from suite.contract.trial import Trial
from suite.errors import BitcertError
from suite.files import read_sealed, write_sealed
from suite.problems import load_problem
from suite.run.registry import make_searcher
from suite.tables.surrogate import fit_process, leave_one_out
from suite.tables.table import write_table
from tests.tables.test_landscape import written

NAME = "portfolio"


def other_network(file: Path) -> Path:
    """The table as if it were about another network: its own record says so, the check of shipped networks is not asked."""
    record = file.with_suffix(".json")
    content = read_sealed(record, "a table's record")
    for each in content["provenance"].values():
        each["network_sha256"] = "0" * 64
    write_sealed(record, content)
    return file


@pytest.fixture
def sources(built: Path, tmp_path: Path) -> list[Path]:
    """Two tables on which opposite halves of the layers matter."""
    halves: list[Callable[[np.ndarray], np.ndarray]] = [
        lambda bits: 0.2 + bits[:, :3].sum(axis=1) / 20,
        lambda bits: 0.2 + bits[:, 3:].sum(axis=1) / 20,
    ]
    return [other_network(written(built, tmp_path, half, f"half{number}")) for number, half in enumerate(halves)]


def test_exam_scores_of_sources_have_no_influence(built: Path, sources: list[Path]) -> None:
    problem = load_problem(f"table:file={built}", budget="w6a6")
    before = source_scores(problem, [str(sources[0])])[1]
    frame = pd.read_parquet(sources[0])
    content = read_sealed(sources[0].with_suffix(".json"), "a table's record")
    exams = [number for number, series in enumerate(content["series"]) if series["split"] == "exam"]
    frame.loc[frame["series"].isin(exams), "acr"] *= -1
    write_table(sources[0], content, frame)
    np.testing.assert_array_equal(source_scores(problem, [str(sources[0])])[1], before)


@pytest.mark.parametrize("name", ["tpe:startup=2:warm=", "portfolio:size=2:then=tpe:sources="])
def test_a_warm_start_is_the_portfolio_and_then_the_estimator(built: Path, sources: list[Path], name: str) -> None:
    problem = load_problem(f"table:file={built}", budget="w6a6")
    searcher = make_searcher(f"{name}{joined(sources)}", problem, 0)
    proposed = []
    for number in range(12):
        proposed.append(searcher.ask())
        searcher.tell(
            Trial(number, proposed[-1], problem.fidelity, 0, problem.evaluate(proposed[-1], problem.fidelity))
        )
    assert proposed[:2] == choose_portfolio(problem, [str(source) for source in sources], 2)
    assert len(set(proposed)) == 12


def told(searcher: Searcher, problem: Problem, trials: int) -> list[Policy]:
    proposed = []
    for number in range(trials):
        proposed.append(searcher.ask())
        metrics = problem.evaluate(proposed[-1], problem.default_fidelity(), seed=0)
        searcher.tell(Trial(number, proposed[-1], problem.default_fidelity(), 0, metrics))
    return proposed


def test_the_ensemble_trusts_the_source_that_ranks_the_trials_right(built: Path, tmp_path: Path) -> None:
    def target(bits: np.ndarray) -> np.ndarray:
        return np.asarray(0.2 + bits @ np.array([1, 2, 3, 4, 5, 6]) / 50)

    problem = load_problem(f"table:file={written(built, tmp_path, target, 'target')}", budget="w6a6")
    same = other_network(written(built, tmp_path, target, "same"))
    reversed_ = other_network(written(built, tmp_path, lambda bits: 0.5 - target(bits), "reversed"))
    best = max(problem.truth, key=problem.truth.__getitem__)  # type: ignore[attr-defined]
    helped = told(make_searcher(f"ranking-ensemble:sources={reversed_}+{same}", problem, 0), problem, 8)
    assert best in helped
    misled = told(make_searcher(f"ranking-ensemble:sources={reversed_}", problem, 0), problem, 24)
    assert best in misled, "after a few trials the process of the target decides"


def test_weights_are_the_shares_of_samples_in_which_a_model_misranks_least() -> None:
    rng = np.random.default_rng(0)
    scores, predictions = rng.normal(size=7), rng.normal(size=(3, 7))
    drawn = rng.multinomial(7, np.full(7, 1 / 7), 40)
    expected = np.zeros(3)
    for counts in drawn:
        sample = np.repeat(np.arange(7), counts)
        losses = [
            sum(
                (model[j] < model[k]) != (scores[j] < scores[k]) or (model[j] > model[k]) != (scores[j] > scores[k])
                for j, k in itertools.product(sample, sample)
            )
            for model in predictions
        ]
        winners = np.flatnonzero(np.array(losses) == min(losses))
        expected[winners] += 1 / len(winners) / len(drawn)
    np.testing.assert_allclose(ranking_weights(predictions, scores, drawn, False), expected)


def test_a_source_that_ranks_worse_than_the_process_is_left_out() -> None:
    scores = np.arange(10.0)
    drawn = np.random.default_rng(0).multinomial(10, np.full(10, 0.1), 200)
    nearly = scores[[0, 2, 1, 3, 4, 5, 6, 7, 8, 9]]
    weights = ranking_weights(np.array([nearly, -scores, scores]), scores, drawn, True)
    assert weights[1] == 0
    assert weights[2] > weights[0] > 0
    assert weights.sum() == pytest.approx(1)


def test_leave_one_out_predictions_equal_processes_without_the_policy() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.integers(0, 4, size=(15, 5))
    scores = vectors @ np.array([1.0, 0.5, 0.2, 0, 0]) + 0.1 * rng.normal(size=15)
    process = fit_process(vectors, scores, None)
    found = leave_one_out(process) * scores.std() + scores.mean()
    kernel, features = process.kernel_, process.X_train_
    for left in range(15):
        kept = np.arange(15) != left
        standard = (scores[kept] - scores.mean()) / scores.std()
        cross = kernel(features[[left]], features[kept])
        expected = (cross @ np.linalg.solve(kernel(features[kept]), standard)).item() * scores.std() + scores.mean()
        assert found[left] == pytest.approx(expected, rel=1e-3, abs=1e-3)


def joined(sources: list[Path]) -> str:
    return "+".join(map(str, sources))


def test_what_is_proposed_first_was_good_elsewhere(built: Path, sources: list[Path]) -> None:
    problem = load_problem(f"table:file={built}", budget="w6a6")
    searcher = make_searcher(f"{NAME}:sources={joined(sources)}:size=3:then=none", problem, 0)
    proposed = [searcher.ask() for _ in range(3)]
    with pytest.raises(Exhausted):
        searcher.ask()
    assert len(set(proposed)) == 3
    assert all(problem.is_feasible(policy) for policy in proposed)
    policies, scores = source_scores(problem, [str(source) for source in sources])
    rows = [policies.index(policy) for policy in proposed]
    np.testing.assert_allclose(scores[:, rows].max(axis=1), 1)
    np.testing.assert_allclose(scores.mean(axis=1), 0, atol=1e-9)


def test_the_method_that_follows_has_seen_them(built: Path, sources: list[Path]) -> None:
    problem = load_problem(f"table:file={built}", budget="w6a6")
    searcher = make_searcher(f"{NAME}:sources={joined(sources)}:size=2:then=tpe", problem, 0)
    seen: list[Policy] = []
    for number in range(14):
        policy = searcher.ask()
        assert policy not in seen
        seen.append(policy)
        searcher.tell(Trial(number, policy, problem.fidelity, 0, problem.evaluate(policy, problem.fidelity)))


@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 7), st.integers(1, 7))
def test_each_choice_raises_the_mean_of_the_best_most(seed: int, rows: int, columns: int, size: int) -> None:
    scores = np.random.default_rng(seed).normal(size=(rows, columns))
    chosen = greedy_cover(scores, min(size, columns))
    assert len(set(chosen)) == len(chosen)
    for place in range(len(chosen)):
        before, rest = chosen[:place], set(range(columns)) - set(chosen[:place])
        worth = {other: scores[:, [*before, other]].max(axis=1).mean() for other in rest}
        assert worth[chosen[place]] == pytest.approx(max(worth.values()))


def test_a_portfolio_of_the_targets_own_network_is_refused(built: Path, sources: list[Path]) -> None:
    problem = load_problem(f"table:file={built}", budget="w6a6")
    with pytest.raises(BitcertError, match="is about the problem's own network"):
        make_searcher(f"{NAME}:sources={built}", problem, 0)
    with pytest.raises(BitcertError, match="another space"):
        make_searcher(f"{NAME}:sources={sources[0]}", load_problem("digits-blocks", budget="w6a6"), 0)
