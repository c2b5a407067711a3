"""Searches with several limits and several costs to minimize: recorded, resumed, and exact on a space that can be enumerated."""

from __future__ import annotations

from pathlib import Path

import pytest

from suite.contract.cost import ModelSize
from suite.problems.separable import SeparableProblem
from suite.run.journal import FILE_NAME
from suite.run.records import Run
from suite.run.registry import make_searcher
from suite.run.state import load_run
from suite.studies.search.run import search
from suite.testing.toys import assert_feasible
from tests.strategies import all_policies

PARETO = ("nsga2:population=8", "tpe:startup=4", "amq:initial=6:batch=3:population=16:generations=3")


def run(searcher: str, directory: Path, evaluations: int, **problem: str) -> Run:
    found = SeparableProblem(layers=2, choices=(2, 3, 5), **problem)  # type: ignore[arg-type]
    return search(found, make_searcher(searcher, found, 1), evaluations=evaluations, directory=directory)


@pytest.mark.parametrize("searcher", PARETO)
def test_the_front_of_a_whole_space_equals_brute_force(searcher: str, tmp_path: Path) -> None:
    """Every policy within both limits is proposed: the front of score, BOPs and bytes is that of the space."""
    problem = SeparableProblem(layers=2, choices=(2, 3, 5), budget="w4a4+3KB", objective="acr+bops+bytes")
    found = run(searcher, tmp_path, 200, budget="w4a4+3KB", objective="acr+bops+bytes")
    values = {}
    for policy in all_policies(problem.space):
        pairs = list(zip(problem.space.layers, policy.precisions, strict=True))
        bops = sum(layer.macs * bits.weight * bits.activation for layer, bits in pairs)
        size = sum(layer.parameters * bits.weight for layer, bits in pairs)
        if bops <= 16 * sum(layer.macs for layer, _ in pairs) and size <= 24_000:
            values[policy] = (bops, -(-size // 8), max(-1.0, problem.loss(policy) - 1.0))
    front = {
        policy
        for policy, mine in values.items()
        if not any(
            all(map(float.__le__, map(float, other), map(float, mine))) for other in values.values() if other != mine
        )
    }
    assert found.stopped == "exhausted"
    assert {trial.policy for trial in found.trials} == set(values)
    assert 5 < len(front) < len(values)
    assert {trial.policy for trial in found.front} == front
    for trial in found.front:
        assert trial.metrics is not None
        assert trial.metrics.costs == {"bytes": values[trial.policy][1]}


@pytest.mark.parametrize("searcher", PARETO)
def test_a_search_of_three_objectives_resumes_from_its_journal(searcher: str, tmp_path: Path) -> None:
    settings = {"budget": "w4a4+3KB", "objective": "acr+bytes+bops"}
    whole = run(searcher, tmp_path / "whole", 20, **settings)
    content = (tmp_path / "whole" / FILE_NAME).read_bytes()
    for number, lines in enumerate((7, 18)):
        cut = tmp_path / f"cut{number}"
        cut.mkdir()
        (cut / FILE_NAME).write_bytes(b"".join(content.splitlines(keepends=True)[:lines]))
        assert run(searcher, cut, 20, **settings) == whole
    again = load_run(tmp_path / "whole")
    assert again == whole
    assert again.front == whole.front
    assert again.objective.minimized == ("bytes", "bops")
    assert [name for name in again.to_dataframe() if name in ("bops", "bytes")] == ["bops", "bytes"]


@pytest.mark.parametrize(
    "searcher", ["random", "arq:episodes=12", "evolution:population=6:parents=3", "limpq", "clado"]
)
def test_every_trial_of_a_search_keeps_both_limits_and_records_the_bytes(searcher: str, tmp_path: Path) -> None:
    found = run(searcher, tmp_path, 12, budget="w4a4+3KB")
    problem = SeparableProblem(layers=2, choices=(2, 3, 5), budget="w4a4+3KB")
    assert found.best is not None
    for trial in found.trials:
        assert_feasible(problem, trial.policy)
        assert trial.metrics is not None
        assert trial.metrics.costs == {"bytes": -(-ModelSize().total(problem.space, trial.policy) // 8)}
    assert found.provenance["budget_limits"] == {
        limit.cost.name: limit.cost.units(limit.most) for limit in problem.budget.limits
    }


def test_a_journal_of_one_limit_and_one_objective_names_no_further_costs(tmp_path: Path) -> None:
    run("random", tmp_path, 4, budget="3KB", objective="acr+bops")
    assert b'"costs"' not in (tmp_path / FILE_NAME).read_bytes()
