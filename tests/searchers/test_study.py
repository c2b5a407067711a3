"""The Optuna study leaves no trace outside: no log record, no changed verbosity; and it counts every result once."""

import logging
from collections.abc import Iterator

import optuna
import pytest

from searchers.tpe import TPE, TPEOptions
from suite.testing.toys import drive, toy_problem


@pytest.fixture
def optuna_log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What Optuna logs at its default verbosity; its logger does not propagate, so it is listened to directly."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.INFO)
    logging.getLogger("optuna").addHandler(caplog.handler)
    yield caplog
    logging.getLogger("optuna").removeHandler(caplog.handler)
    optuna.logging.set_verbosity(verbosity)


@pytest.mark.parametrize("objective", ["acr", "acr+bops"])
def test_nothing_is_logged_and_the_verbosity_is_left_alone(
    objective: str, optuna_log: pytest.LogCaptureFixture
) -> None:
    problem = toy_problem(objective=objective)
    drive(TPE(problem, 0, TPEOptions(startup=4)), problem, 12, width=2, fails=lambda number: number == 5)
    assert optuna.logging.get_verbosity() == optuna.logging.INFO
    assert not optuna_log.records


def test_a_result_told_twice_counts_once() -> None:
    problem = toy_problem()
    searcher = TPE(problem, seed=0)
    trials = drive(searcher, problem, 4)
    before = len(searcher.study.trials)
    searcher.tell(trials[0])
    assert len(searcher.study.trials) == before
