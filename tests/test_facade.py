"""The façade and the command's help are light: heavy packages are imported where they are used."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import suite

HEAVY = ("torch", "torchvision", "ray", "optuna", "matplotlib", "seaborn", "pandas", "sklearn", "scipy")


@pytest.mark.parametrize(
    "statement",
    [
        "import suite",
        "from suite.cli import main; main(['--help'])",
        "from suite.cli import main; main(['compare', '--help'])",
    ],
)
def test_nothing_heavy_is_imported_for(statement: str) -> None:
    code = f"import sys\ntry:\n    {statement}\nexcept SystemExit:\n    pass\nprint(*sys.modules, file=sys.stderr)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(answer.stderr.split()) & set(HEAVY)


def test_every_name_of_the_facade_can_be_imported() -> None:
    for name in suite.__all__:
        assert getattr(suite, name) is not None
    assert dir(suite) == suite.__all__


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        suite.nonsense  # noqa: B018


def test_every_name_that_other_programs_call_is_there(tmp_path: Path) -> None:
    from baselines.program import assign
    from suite.certify import certified_radius, certify, clopper_pearson_lower, clopper_pearson_upper
    from suite.certify.exam import ExamSettings

    problem = suite.load_problem("digits", budget="w3a3", sigma=0.25, seed=0)
    space, policy = problem.space, problem.space.uniform(3)
    assert policy in space
    assert space.cardinality == len(space.choices) ** len(space.variables)
    assert space.random(np.random.default_rng(0)) in space
    assert problem.bops(policy) == problem.budget.limit
    assert problem.is_feasible(policy)
    assert suite.Policy.from_json(policy.to_json()) == policy
    layer = space.layers[0]
    assert layer.name
    assert layer.macs >= layer.parameters > 0
    fidelity = suite.Fidelity(images=20, noise=16, finetune_steps=0)
    metrics = problem.evaluate(policy, fidelity, seed=0)
    assert metrics.certified_accuracy is not None
    assert set(problem.radii) == set(metrics.certified_accuracy)
    assert metrics.bops == problem.budget.limit
    assert problem.meter.forward_passes == metrics.forward_passes > 0
    for value in (metrics.clean_accuracy, metrics.acr, metrics.seconds, metrics.alpha, metrics.method, metrics.values):
        assert value is not None

    assert "tpe" in suite.searcher_names()
    searcher = suite.make_searcher("tpe", problem, seed=0)
    assert problem.is_feasible(searcher.ask(pending=()))
    searcher = suite.make_searcher("fit", suite.load_problem("separable"), seed=0)
    for _ in range(4):
        searcher.ask()
    with pytest.raises(suite.Exhausted):
        searcher.ask()

    separable = suite.load_problem("separable")
    method = suite.make_searcher("random", separable, seed=0)
    run = suite.search(separable, method, evaluations=6, directory=tmp_path / "run", executor="inline")
    assert suite.load_run(tmp_path / "run") == run
    assert run.best in (*run.trials, *run.finals)
    outcome = suite.examine(problem, policy, post_step="none", exam=ExamSettings(images=10, n0=10, n=20))
    assert outcome.metrics.acr is not None

    assert clopper_pearson_lower(90, 100, 1e-3) < 0.9 < clopper_pearson_upper(90, 100, 1e-3)
    assert certified_radius(0.5, 0.25) == 0 < certified_radius(0.9, 0.25)
    images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = certify(problem.network, images, np.array([0, 1]), sigma=0.25, n0=10, n=50, alpha=1e-3, seed=0)
    assert found.prediction.shape == found.radius.shape == found.p_lower.shape == (2,)
    assert np.sum(found.forward_passes) == 120
    solved = assign(np.array([[3.0, 1.0], [2.5, 0.0]]), np.array([[1, 2], [1, 4]]), 5, ties=())
    assert (list(solved.choice), solved.loss, solved.cost) == ([0, 1], 3.0, 5)
    assert solved.lower_bound <= solved.loss
