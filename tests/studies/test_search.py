"""One search: how its best policies are measured again, and that a directory is not asked for less than it holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from suite.cli import main
from suite.contract.trial import Fidelity
from suite.errors import BitcertError
from suite.problems.separable import SeparableProblem
from suite.run.limits import FINALISTS, Promotion
from suite.studies.search.run import promotion_of

FIDELITY = Fidelity(10, 4)


class Estimated(SeparableProblem):
    """A problem whose measurements are estimates: the best need a second look, on three times the images."""

    estimates = True

    def second_look(self, fidelity: Fidelity) -> Fidelity:
        return replace(fidelity, images=3 * fidelity.images)


def test_the_problem_decides_whether_and_how_the_best_are_measured_again() -> None:
    assert promotion_of(SeparableProblem(), FIDELITY, seed=6, finalists=None) is None
    assert promotion_of(Estimated(), FIDELITY, 6, None) == Promotion(FINALISTS, Fidelity(30, 4), 7)


def test_a_number_of_finalists_overrules_the_problem() -> None:
    assert promotion_of(SeparableProblem(), FIDELITY, 6, 2) == Promotion(2, FIDELITY, 7)
    assert promotion_of(Estimated(), FIDELITY, 6, 2) == Promotion(2, Fidelity(30, 4), 7)
    assert promotion_of(Estimated(), FIDELITY, 6, 0) is None
    with pytest.raises(BitcertError, match="finalists must not be negative"):
        promotion_of(Estimated(), FIDELITY, 6, -1)


def test_fewer_evaluations_than_the_directory_holds_are_a_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def search(evaluations: int) -> int:
        settings = {"problem": "separable", "searcher": "random", "directory": tmp_path, "evaluations": evaluations}
        return main(["search", *(part for name, value in settings.items() for part in (f"--{name}", str(value)))])

    assert search(6) == 0
    capsys.readouterr()
    assert search(4) == 2
    assert "holds a search of more evaluations than asked for" in capsys.readouterr().err
    assert search(6) == 0
    assert "6 evaluations, 6 forward passes; stopped by: evaluations" in capsys.readouterr().out
