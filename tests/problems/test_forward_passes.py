"""What an evaluation may cost is known beforehand."""

from __future__ import annotations

from pathlib import Path

import pytest

from suite.contract.trial import Fidelity
from suite.problems import load_problem
from suite.run.registry import make_searcher
from suite.studies.search.run import search

ADAPTIVE = ("sequential", "incremental")
SMALL = Fidelity(images=12, noise=16)


@pytest.mark.filterwarnings("ignore::suite.certify.CertificationWarning")
@pytest.mark.parametrize("certify", ["ranking", "fixed", "aggregate", "irs", *ADAPTIVE])
def test_an_evaluation_makes_as_many_forward_passes_as_said_or_fewer_if_its_certifier_adapts(certify: str) -> None:
    problem = load_problem("digits", certify=certify)
    most = problem.forward_passes(SMALL)
    made = problem.evaluate(problem.space.uniform(2), SMALL).forward_passes
    assert most is not None
    assert made <= most
    assert (made == most) or certify in ADAPTIVE


def test_finetuning_counts() -> None:
    problem = load_problem("digits", protocol="finetune")
    fidelity = Fidelity(images=12, noise=16, finetune_steps=2)
    assert problem.forward_passes(fidelity) == problem.evaluate(problem.space.uniform(2), fidelity).forward_passes


def test_second_measurements_on_a_network_are_inside_the_limit(tmp_path: Path) -> None:
    problem = load_problem("digits")
    each, second = (problem.forward_passes(fidelity) for fidelity in (SMALL, problem.second_look(SMALL)))
    assert each is not None
    assert second is not None
    limit = 3 * second + 6 * each
    run = search(
        problem,
        make_searcher("random", problem, 0),
        evaluations=None,
        forward_passes=limit,
        directory=tmp_path,
        fidelity=SMALL,
        finalists=3,
    )
    assert (len(run.trials), len(run.finals), run.forward_passes) == (6, 3, limit)
