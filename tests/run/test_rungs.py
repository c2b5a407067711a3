"""Rungs: cheap measurements first, the promising go on; resumed runs equal uninterrupted ones."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from suite.contract.searcher import Searcher
from suite.contract.space import Policy
from suite.contract.trial import Fidelity, Metrics, Trial
from suite.errors import BitcertError
from suite.problems.separable import SeparableProblem
from suite.run.journal import FILE_NAME
from suite.run.limits import Limits, Promotion
from suite.run.loop import SearchLoop
from suite.run.records import Run
from suite.run.registry import make_searcher
from suite.run.rungs import Halving, Rungs
from suite.run.state import load_run
from suite.studies.search.run import search

LADDER = (Fidelity(10, 4), Fidelity(30, 4), Fidelity(90, 4))
RUNGS = Rungs(LADDER[:-1], reduction=3)


class Measured(SeparableProblem):
    """A formula that costs what its fidelity says; fewer images, more error. Some evaluations may go wrong."""

    def __init__(self, failing: bool = False) -> None:
        super().__init__()
        self._failing = failing

    def evaluate(self, policy: Policy, fidelity: Fidelity, seed: int = 0) -> Metrics:
        metrics = super().evaluate(policy, fidelity, seed)
        rng = np.random.default_rng([sum(policy.weights), sum(policy.activations), fidelity.images])
        if self._failing and rng.random() < 0.3:
            raise RuntimeError("out of memory")
        error = 0.02 * rng.standard_normal() / np.sqrt(fidelity.images)
        return replace(metrics, acr=metrics.acr + error, forward_passes=fidelity.images * fidelity.noise)


def go(directory: Path, evaluations: int = 40, *, failing: bool = False, parallel: int = 1, name: str = "tpe") -> Run:
    problem = Measured(failing)
    return search(
        problem,
        make_searcher(name, problem, 0),
        evaluations=evaluations,
        directory=directory,
        fidelity=LADDER[-1],
        rungs=RUNGS,
        finalists=2,
        parallel=parallel,
        retries=1,
    )


def timeless(journal: bytes) -> bytes:
    return re.sub(rb'"(searcher_seconds|elapsed|seconds|crc)":("[0-9a-f]{8}"|[-+.e0-9]+)', b"", journal)


def test_few_policies_reach_the_top_and_spend_is_that_of_all_their_rungs(tmp_path: Path) -> None:
    run = go(tmp_path, evaluations=92, name="random")
    reached = [LADDER.index(trial.fidelity) for trial in run.trials]
    counts = [reached.count(rung) for rung in range(3)]
    assert len(run.trials) == 90
    assert min(counts) > 0
    assert 0.2 < sum(counts[1:]) / 90 < 0.6  # a third, and those that came when there was little to compare with
    spend = np.cumsum([fidelity.images * fidelity.noise for fidelity in LADDER])
    assert [trial.spend for trial in run.trials] == [spend[rung] for rung in reached]
    assert run.forward_passes == sum(trial.spend for trial in (*run.trials, *run.finals))


def test_every_pass_is_counted_failed_trials_and_repeats_included(tmp_path: Path) -> None:
    """Beside what the journal says of every rung, nothing is charged."""
    run = go(tmp_path, evaluations=60, failing=True, parallel=4, name="evolution")
    events = [json.loads(line) for line in (tmp_path / FILE_NAME).read_text().splitlines()]
    below: dict[int, int] = {}
    spent = 0
    for event in events:
        if event["event"] == "rung":
            below[event["number"]] = below.get(event["number"], 0) + event["metrics"]["forward_passes"]
            spent += event["metrics"]["forward_passes"]
        if event["event"] == "tell" and "metrics" in event and "repeat_of" not in event:
            spent += event["metrics"]["forward_passes"] - below.get(event["number"], 0)
        spent += event.get("wasted", 0)
    assert run.failed_spend > 0
    assert run.forward_passes == spent
    loop = SearchLoop(
        Measured(failing=True),
        make_searcher("evolution", Measured(), 0),
        tmp_path,
        Limits(60),
        fidelity=LADDER[-1],
        rungs=RUNGS,
        parallel=4,
        retries=1,
        promotion=Promotion(2, LADDER[-1], 1),
    )
    assert loop.spend == spent
    loop.close()


def test_only_policies_at_the_top_can_be_the_best(tmp_path: Path) -> None:
    run = go(tmp_path)
    assert run.finals
    assert all(trial.fidelity == LADDER[-1] for trial in run.front)
    top = {trial.policy for trial in run.trials if trial.fidelity == LADDER[-1]}
    assert {trial.policy for trial in run.finals} <= top
    assert replace(run, finals=()).best in [trial for trial in run.trials if trial.fidelity == LADDER[-1]]


@pytest.mark.parametrize("failing", [False, True])
def test_a_run_cut_anywhere_and_resumed_equals_the_uninterrupted_one(tmp_path: Path, failing: bool) -> None:
    whole = go(tmp_path / "whole", failing=failing)
    content = (tmp_path / "whole" / FILE_NAME).read_bytes()
    assert (b'"event":"retry"' in content) == failing
    assert content.count(b'"event":"rung"') > 5
    assert load_run(tmp_path / "whole") == whole
    ends = [position + 1 for position, byte in enumerate(content) if byte == ord("\n")]
    for number, end in enumerate(ends[::7]):
        cut = tmp_path / f"cut{number}"
        cut.mkdir()
        (cut / FILE_NAME).write_bytes(content[:end])
        assert go(cut, failing=failing) == whole
        assert timeless((cut / FILE_NAME).read_bytes()) == timeless(content)


def test_a_parallel_run_replays_to_itself(tmp_path: Path) -> None:
    whole = go(tmp_path / "run", parallel=3)
    assert go(tmp_path / "run", parallel=3) == whole
    longer = go(tmp_path / "run", evaluations=44, parallel=3)
    assert longer.trials[: len(whole.trials)] == whole.trials


def test_a_run_with_other_rungs_is_another_run(tmp_path: Path) -> None:
    go(tmp_path, evaluations=3)
    problem = Measured()
    with pytest.raises(BitcertError, match="differs in rungs"):
        search(problem, make_searcher("tpe", problem, 0), directory=tmp_path, fidelity=LADDER[-1], finalists=2)


def test_halving_lets_the_best_third_go_on() -> None:
    halving, rng = Halving(3, 3.0), np.random.default_rng(0)
    scores = rng.random(600)
    went_on = [score for number, score in enumerate(scores) if halving.goes_on(number, 0, score)]
    assert 0.3 < len(went_on) / 600 < 0.38
    assert min(went_on[50:]) > 0.6  # the cutoff of the upper third, once there are enough to know it
    assert not any(halving.goes_on(number, 2, 1.0) for number in range(5))  # nothing follows the top


@pytest.mark.parametrize(("rungs", "reduction"), [(2, 2.0), (3, 3.0), (6, 3.0), (4, 2.5), (7, 2.0), (6, 10.0)])
def test_every_rung_but_the_top_one_judges(rungs: int, reduction: float) -> None:
    halving = Halving(rungs, reduction)
    for number, score in ((0, 1.0), (1, 0.9), (2, 0.8)):
        for rung in range(rungs - 1):
            assert halving.goes_on(number, rung, score) == (number == 0)


def test_rungs_are_read_from_text() -> None:
    assert Rungs.parse("30x16, 60x32+20", 4).lower == (Fidelity(30, 16), Fidelity(60, 32, 20))
    for text in ("", "30", "30x", "axb", "30x16;60x32", "0x4"):
        with pytest.raises(BitcertError):
            Rungs.parse(text)
    with pytest.raises(BitcertError, match="at least 2"):
        Rungs.parse("30x16", 1.5)
    for wrong in ("90x4", "200x2", "60x2,30x3", "10x4,10x4"):
        with pytest.raises(BitcertError, match="must ascend"):
            Rungs.parse(wrong).up_to(LADDER[-1])


def test_the_header_says_which_rungs(tmp_path: Path) -> None:
    go(tmp_path, evaluations=2)
    header = json.loads((tmp_path / FILE_NAME).read_text().splitlines()[0])
    assert [rung["images"] for rung in header["rungs"]["lower"]] == [10, 30]


class Same(Searcher):
    """The same policy forever."""

    def ask(self, pending: Sequence[Trial] = ()) -> Policy:
        return self.problem.space.uniform(2)

    def tell(self, trial: Trial) -> None:
        pass


def test_a_policy_proposed_twice_at_once_is_charged_for_what_it_spent(tmp_path: Path) -> None:
    problem = Measured()
    loop = SearchLoop(
        problem, Same(problem, 0), tmp_path, Limits(2), fidelity=LADDER[-1], rungs=RUNGS, parallel=2, retries=0
    )

    def measured(trial: Trial | None) -> Trial:
        assert trial is not None
        return replace(trial, metrics=problem.evaluate(trial.policy, trial.fidelity, trial.seed))

    first, second = loop.propose(), loop.propose()
    loop.complete(measured(first))
    loop.complete(measured(second))
    for _ in range(4):
        loop.complete(measured(loop.propose()))
    assert loop.propose() is None
    loop.close()
    run = load_run(tmp_path)
    assert [trial.repeat_of for trial in run.trials] == [None, None]
    assert run.forward_passes == 2 * sum(rung.images * rung.noise for rung in LADDER)
    assert loop.spend == run.forward_passes
