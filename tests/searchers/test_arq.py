"""ARQ conforms, is rewarded as it says, and does not mind the order in which results arrive."""

from __future__ import annotations

from searchers.arq import ARQ
from suite.problem import Problem
from suite.searcher import Searcher
from tests.conformance import SearcherConformance


class TestARQ(SearcherConformance):
    def make(self, problem: Problem, seed: int) -> Searcher:
        return ARQ(problem, seed, episodes=64)
