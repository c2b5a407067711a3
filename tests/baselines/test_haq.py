"""HAQ conforms, and is ARQ's agent with accuracy, finetuned if asked for, in place of the certified radius."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import ArrayLike

import suite
from baselines.haq import HAQ, HAQOptions
from searchers.arq import ARQ, ARQOptions
from suite.contract.problem import Problem
from suite.contract.searcher import Searcher
from suite.contract.space import Policy
from suite.contract.trial import Fidelity, Metrics, Trial
from suite.errors import BitcertError
from suite.problems.separable import SeparableProblem
from suite.run.registry import make_searcher
from suite.testing.searchers import SearcherConformance
from suite.testing.toys import drive, toy_problem

STEPS = 3


class TestHAQ(SearcherConformance):
    learns = False  # within 64 of the published 600 episodes

    def make(self, problem: Problem, seed: int) -> Searcher:
        return HAQ(problem, seed)


class Trainable(SeparableProblem):
    """Every finetuning step halves what accuracy lacks and costs ten passes; some policies diverge."""

    def __init__(self, diverging: frozenset[Policy] = frozenset()) -> None:
        super().__init__(layers=6, choices=(2, 3, 4, 5, 6))
        self.diverging = diverging
        self.finetuned: list[tuple[Policy, Fidelity, int]] = []

    def evaluate(self, policy: Policy, fidelity: Fidelity, seed: int = 0) -> Metrics:
        metrics = super().evaluate(policy, fidelity, seed)
        if not fidelity.finetune_steps:
            return metrics
        self.finetuned.append((policy, fidelity, seed))
        self.meter.charge(10 * fidelity.finetune_steps)
        if policy in self.diverging:
            raise BitcertError("finetuning diverged")
        assert metrics.clean_accuracy is not None
        return replace(metrics, clean_accuracy=1 - (1 - metrics.clean_accuracy) / 2**fidelity.finetune_steps)


def rewards_of(searcher: ARQ) -> list[float]:
    """What the agent will be taught, one number for each episode."""
    learned: list[float] = []

    def record(states: ArrayLike, actions: ArrayLike, rewards: ArrayLike) -> None:
        learned.append(float(np.asarray(rewards)[0]))

    searcher.agent.remember = record  # type: ignore[method-assign]
    return learned


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


def test_finetuning_rewards_the_accuracy_after_it() -> None:
    problem = Trainable()
    searcher = HAQ(problem, 0, HAQOptions(finetune_steps=STEPS))
    learned = rewards_of(searcher)
    trials = drive(searcher, problem, 10)
    lacking = [1 - trial.metrics.measured("clean_accuracy") for trial in trials if trial.metrics is not None]
    assert learned == pytest.approx([-10 * share / 2**STEPS for share in lacking])


def test_finetuning_is_paid_once_for_every_policy_and_sees_no_noise() -> None:
    problem = Trainable()
    searcher = HAQ(problem, 0, HAQOptions(finetune_steps=STEPS))
    learned = rewards_of(searcher)
    policy = searcher.ask()
    trial = Trial(0, policy, Fidelity(images=7, noise=5), seed=4)
    trial = replace(trial, metrics=problem.evaluate(policy, trial.fidelity, trial.seed))
    before = problem.meter.forward_passes
    searcher.tell(trial)
    of_float, finetuned = 7 * 5, 7 + 10 * STEPS
    assert problem.meter.forward_passes - before == of_float + finetuned
    assert problem.finetuned == [(policy, Fidelity(images=7, noise=1, finetune_steps=STEPS), 4)]
    assert searcher._finetuned_accuracy(policy, 7, 4) == pytest.approx(1 + learned[0] / 10)
    assert problem.meter.forward_passes - before == of_float + finetuned


def test_a_search_is_charged_for_its_finetuning(tmp_path: Path) -> None:
    problem = Trainable()
    searcher = make_searcher("haq", problem, finetune_steps=STEPS)
    run = suite.search(problem, searcher, evaluations=6, directory=tmp_path)
    policies = {trial.policy for trial in run.trials}
    assert run.probe_spend == len(policies) * (1 + 10 * STEPS) + 1


def test_a_search_that_is_resumed_finetunes_again_and_pays_once(tmp_path: Path) -> None:
    runs = []
    for lengths in ([9], [4, 9]):
        for evaluations in lengths:
            problem = Trainable()
            searcher = make_searcher("haq", problem, finetune_steps=STEPS)
            run = suite.search(problem, searcher, evaluations=evaluations, directory=tmp_path / str(len(lengths)))
        runs.append(run)
    assert runs[0].trials == runs[1].trials
    assert runs[0].probe_spend == runs[1].probe_spend


def test_training_that_diverges_teaches_nothing_and_is_not_tried_again() -> None:
    first = HAQ(Trainable(), 0).ask()
    problem = Trainable(frozenset({first}))
    searcher = HAQ(problem, 0, HAQOptions(finetune_steps=STEPS))
    learned = rewards_of(searcher)
    drive(searcher, problem, 5)
    assert len(learned) == 4
    searcher._finetuned_accuracy(first, problem.fidelity.images, 0)
    assert [policy for policy, _, _ in problem.finetuned].count(first) == 1


def test_steps_that_the_protocol_forbids_are_refused_at_construction() -> None:
    problem = suite.load_problem("digits", protocol="ptq")
    with pytest.raises(BitcertError, match="protocol ptq and 3 finetuning steps contradict"):
        make_searcher("haq", problem, finetune_steps=STEPS)


def test_a_network_is_finetuned_without_a_warning_that_one_sample_certifies_nothing() -> None:
    problem = suite.load_problem("digits", certify="fixed")
    searcher = HAQ(problem, 0, HAQOptions(finetune_steps=1))
    policy = problem.space.uniform(2)
    measured = searcher._finetuned_accuracy(policy, 20, 0)
    finetuned = suite.load_problem("digits").evaluate(policy, Fidelity(20, 1, finetune_steps=1), 0)
    assert measured == finetuned.clean_accuracy


@pytest.mark.parametrize("options", [{"episodes": 0}, {"finetune_steps": -1}], ids=str)
def test_options_out_of_range_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(BitcertError, match=next(iter(options))):
        HAQOptions(**options)
