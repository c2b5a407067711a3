"""The walled study leaves no trace outside: no log lines, no changed verbosity, no warning."""

import optuna
import pytest

from searchers.tpe import TPE
from tests.toys import drive, toy_problem


@pytest.mark.parametrize("objective", ["acr", "acr+bops"])
def test_nothing_is_logged_and_the_verbosity_is_left_alone(objective: str, capfd: pytest.CaptureFixture[str]) -> None:
    optuna.logging.set_verbosity(optuna.logging.INFO)
    problem = toy_problem(objective=objective)
    drive(TPE(problem, seed=0, startup=4), problem, 12, width=2, fails=lambda number: number == 5)
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == optuna.logging.INFO


def test_a_result_told_twice_counts_once() -> None:
    problem = toy_problem()
    searcher = TPE(problem, seed=0)
    trials = drive(searcher, problem, 4)
    before = len(searcher.walled.study.trials)
    searcher.tell(trials[0])
    assert len(searcher.walled.study.trials) == before
