"""Post-steps: equal steps for all kinds, quantized weights at the end, options as text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from suite.errors import BitcertError
from suite.problems import load_problem
from suite.problems.vision import SmoothedProblem
from suite.quantize.layer import QuantizedLayer
from suite.run.post_step import POST_STEPS, PostStep, apply_post_step, parse_post_step
from suite.train.finetune import FinetuneSettings

KINDS = tuple(name for name in POST_STEPS if name != "none")


def digits() -> SmoothedProblem:
    problem = load_problem("digits", budget="w2a2", finetuning=FinetuneSettings(batch=16))
    assert isinstance(problem, SmoothedProblem)
    return problem


@pytest.fixture(scope="module")
def problem() -> SmoothedProblem:
    return digits()


@given(st.integers(2, 2000), st.integers(1, 9), st.floats(0.01, 0.99))
def test_cycles_and_finish_make_up_the_steps(steps: int, captures: int, finish: float) -> None:
    if steps < captures + 1:
        with pytest.raises(BitcertError, match="too few"):
            PostStep("sqwa", steps=steps, captures=captures, finish=finish)
        return
    plan = PostStep("sqwa", steps=steps, captures=captures, finish=finish).plan
    assert plan.steps == steps
    assert min(plan.captures, plan.cycle_steps, plan.finish_steps) >= 1
    assert abs(plan.finish_steps - finish * steps) <= captures + 1


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_takes_equally_many_steps_and_is_reproduced(problem: SmoothedProblem, name: str) -> None:
    steps: list[int] = []
    step, policy = PostStep(name, steps=12, captures=2), problem.space.uniform(2)
    finished = apply_post_step(problem, policy, step, progress=steps.append)
    assert steps == list(range(1, 13))
    training = 3 * 16 * 12
    assert training <= finished.forward_passes <= training + 997 * 7
    images = problem.dataset.splits["search"].images(0, 8)
    again = apply_post_step(digits(), policy, step)
    other = apply_post_step(problem, policy, PostStep(name, steps=12, captures=2, seed=1))
    with torch.inference_mode():
        logits = [found.network(images.clone()) for found in (finished, again, other)]
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2])


@pytest.mark.parametrize("name", KINDS)
def test_weights_have_as_many_levels_as_the_policy_allows(problem: SmoothedProblem, name: str) -> None:
    finished = apply_post_step(problem, problem.space.uniform(2), PostStep(name, steps=6, captures=2))
    layers = {name: module for name, module in finished.network.named_modules() if isinstance(module, QuantizedLayer)}
    assert len(layers) == len(problem.space.layers)
    for layer in problem.space.layers:
        if layer.name not in problem.space.pinned:
            rows = layers[layer.name].weight.flatten(1).numpy()
            assert max(len(np.unique(np.round(row, 6))) for row in rows) <= 3, "ternary in every output channel"


def test_without_noise_training_is_another(problem: SmoothedProblem) -> None:
    policy, images = problem.space.uniform(2), problem.dataset.splits["search"].images(0, 4)
    networks = [
        apply_post_step(problem, policy, PostStep("sqwa", steps=6, captures=2, noise=noise)).network
        for noise in (True, False)
    ]
    with torch.inference_mode():
        assert not torch.equal(*(network(images.clone()) for network in networks))


def test_sqwa_keeps_a_record_and_hands_out_captures(problem: SmoothedProblem) -> None:
    kept: list[int] = []
    finished = apply_post_step(
        problem,
        problem.space.uniform(2),
        PostStep("sqwa", steps=9, captures=3),
        captured=lambda number, _: kept.append(number),
    )
    assert kept == [0, 1, 2]
    assert len(finished.record["captures"]) == 3
    assert finished.record["forward_passes"] == finished.forward_passes


def test_a_state_file_is_resumed_and_removed(problem: SmoothedProblem, tmp_path: Path) -> None:
    step, policy, state = PostStep("sqwa", steps=9, captures=3), problem.space.uniform(2), tmp_path / "state"
    whole = apply_post_step(problem, policy, step)

    def stop(number: int) -> None:
        if number > step.plan.cycle_steps:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        apply_post_step(problem, policy, step, state=state, progress=stop)
    resumed = apply_post_step(problem, policy, step, state=state)
    assert resumed.record == whole.record
    assert not state.exists()


def test_options_follow_the_name() -> None:
    step = parse_post_step("sqwa:captures=3:noise=false:averaged=masters", steps=100)
    assert step == PostStep("sqwa", steps=100, captures=3, noise=False, averaged="masters")
    assert parse_post_step("qat:steps=50", steps=100).steps == 50
    assert parse_post_step("none") == PostStep()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("swqa", "unknown post-step 'swqa'"),
        ("sqwa:cycles=3", "unknown option of sqwa 'cycles'"),
        ("sqwa:captures=0", "captures >= 1"),
        ("sqwa:steps=5", "5 steps are too few for 5 cycles"),
        ("sqwa:captures=x", "captures of the post-step must be a number"),
        ("sqwa:noise=1", "noise of the post-step must be true or false"),
        ("sqwa:finish=1", "share of the steps"),
        ("qat:rate=-1", "rate must be a positive number"),
        ("sqwa:averaged=all", "unknown thing to average"),
        ("sqwa:seed=-1", "seed"),
    ],
)
def test_mistakes_are_named(text: str, message: str) -> None:
    with pytest.raises(BitcertError, match=message):
        parse_post_step(text)
