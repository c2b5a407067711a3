"""Entries of small searches, made once for all tests of a process."""

from __future__ import annotations

from pathlib import Path

import pytest

from suite.board.make import Submission, write_entry
from suite.board.schema import Fidelity, Spend
from suite.board.winners import Winner
from suite.certify.exam import ExamSettings
from suite.contract.space import Policy
from suite.problems import load_problem
from suite.protocols import parse_post_step
from suite.workbench import BenchProblem, bench_problem


@pytest.fixture(scope="session")
def problem() -> BenchProblem:
    return bench_problem(load_problem("digits", budget="w3a3"), "network")


def winner(problem: BenchProblem, policy: Policy, post_step: str = "none", seed: int = 0) -> Winner:
    """A winner as a search of ten evaluations would have found it."""
    fidelity = Fidelity(images=20, noise=8, finetune_steps=0)
    passes = 10 * (20 * 9 + 250)
    spend = Spend(
        fidelity=fidelity,
        second=None,
        evaluations=10,
        finalists=0,
        probe_passes=0,
        other_passes=0,
        forward_passes=passes,
        seconds=1.0,
        score=0.4,
    )
    exam = ExamSettings(images=100, n0=10, n=100)
    return Winner("random", seed, policy, problem.provenance(), spend, parse_post_step(post_step), 0, exam)


@pytest.fixture(scope="session")
def quantized(problem: BenchProblem, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An entry whose network follows from its policy."""
    folder = tmp_path_factory.mktemp("quantized")
    return write_entry(problem, winner(problem, problem.space.uniform(3)), folder, Submission("bitcert submit"))


@pytest.fixture(scope="session")
def finetuned(problem: BenchProblem, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An entry with weights."""
    folder = tmp_path_factory.mktemp("finetuned")
    chosen = winner(problem, problem.space.uniform(3), "qat:steps=10")
    return write_entry(problem, chosen, folder, Submission("bitcert submit"))
