"""Runs killed at random moments and resumed: nothing lost, nothing twice, nothing different. BITCERT_CHAOS sets how many."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from suite.contract.space import Policy
from suite.contract.trial import Fidelity, Metrics
from suite.problems.separable import SeparableProblem
from suite.run.journal import FILE_NAME, JournalWarning
from suite.run.registry import make_searcher
from suite.run.state import load_run
from suite.studies.search.run import search

RUNS = int(os.environ.get("BITCERT_CHAOS", "10"))
EVALUATIONS, FINALISTS = 25, 3


class Noted(SeparableProblem):
    """A problem that takes its time and writes down which policies it evaluates."""

    def __init__(self, log: Path, pace: float = 0.002) -> None:
        super().__init__()
        self._log, self._pace = log, pace

    def evaluate(self, policy: Policy, fidelity: Fidelity, seed: int = 0) -> Metrics:
        with self._log.open("a") as log:
            log.write(f"{seed} {policy.to_json()}\n")
        time.sleep(self._pace)
        return super().evaluate(policy, fidelity, seed)


def go(directory: Path, log: Path, seed: int) -> None:
    problem = Noted(log)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", JournalWarning)  # a torn last line is mended and said
        search(
            problem,
            make_searcher("evolution", problem, seed),
            evaluations=EVALUATIONS,
            finalists=FINALISTS,
            directory=directory,
        )


def events(directory: Path) -> list[dict[str, object]]:
    times = r'"(searcher_seconds|elapsed|crc)":("[0-9a-f]{8}"|[-+.e0-9]+)'
    content = re.sub(times, r'"\1":0', (directory / FILE_NAME).read_text())
    return [json.loads(line) for line in content.splitlines()]


@contextmanager
def forked(directory: Path, log: Path, seed: int) -> Iterator[multiprocessing.process.BaseProcess]:
    child = multiprocessing.get_context("fork").Process(target=go, args=(directory, log, seed))
    child.start()
    try:
        yield child
    finally:
        child.kill()
        child.join()


def size_of(directory: Path) -> int:
    """Bytes of the journal."""
    journal = directory / FILE_NAME
    return journal.stat().st_size if journal.exists() else 0


@pytest.mark.parametrize("seed", range(RUNS))
def test_a_run_killed_at_random_moments_is_the_uninterrupted_one(seed: int, tmp_path: Path) -> None:
    go(tmp_path / "whole", tmp_path / "whole.log", seed)
    killed, rng, kills = tmp_path / "killed", np.random.default_rng(seed), 0
    while True:
        enough = size_of(killed) + rng.integers(4_000)  # bytes, some ten events
        with forked(killed, tmp_path / "killed.log", seed) as child:
            while child.exitcode is None and size_of(killed) < enough:
                child.join(0.001)
            if child.exitcode is not None:
                assert child.exitcode == 0
                break
            kills += 1
    assert events(killed) == events(tmp_path / "whole")
    assert load_run(killed) == load_run(tmp_path / "whole")
    numbers = Counter((event["event"], event.get("number")) for event in events(killed))
    assert set(numbers.values()) == {1}
    assert load_run(killed).evaluations == EVALUATIONS
    evaluated = (tmp_path / "killed.log").read_text().splitlines()
    once = (tmp_path / "whole.log").read_text().splitlines()
    assert set(evaluated) == set(once)
    assert len(evaluated) <= len(once) + kills  # only what was under way is evaluated again
