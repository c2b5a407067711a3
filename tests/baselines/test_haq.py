"""HAQ conforms, and is ARQ's agent with accuracy in place of the certified radius."""

from __future__ import annotations

from baselines.haq import HAQ
from searchers.arq import ARQ, ARQOptions
from suite.contract.problem import Problem
from suite.contract.searcher import Searcher
from suite.testing.searchers import SearcherConformance
from suite.testing.toys import drive, toy_problem


class TestHAQ(SearcherConformance):
    learns = False  # within 64 of the published 600 episodes

    def make(self, problem: Problem, seed: int) -> Searcher:
        return HAQ(problem, seed)


def test_proposes_what_the_agent_rewarded_by_accuracy_proposes() -> None:
    problem = toy_problem()
    ours, rewarded = (
        [trial.policy for trial in drive(searcher, problem, 40)]
        for searcher in (HAQ(problem, 0), ARQ(problem, 0, ARQOptions(reward="clean")))
    )
    assert ours == rewarded


def test_keeps_its_winner_by_the_objective_not_by_accuracy() -> None:
    problem = toy_problem(objective="certified@0.25")
    assert len({trial.policy for trial in drive(HAQ(problem, 0), problem, 25)}) > 20
