"""Portfolios: chosen greedily on other networks' tables, never on the target's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchers.portfolio import greedy_cover
from suite.contract.searcher import Exhausted
from suite.contract.space import Policy
from suite.contract.trial import Trial
from suite.errors import BitcertError
from suite.files import read_sealed, write_sealed
from suite.problems import load_problem
from suite.run.registry import make_searcher
from tests.tables.test_landscape import written

NAME = "searchers.portfolio:Portfolio"


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
    truths = [load_problem(f"table:file={source}", budget="w6a6").truth for source in sources]  # type: ignore[attr-defined]
    for truth in truths:
        reached = max(truth[policy] for policy in proposed)
        assert reached == pytest.approx(max(truth.values()))


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
