"""Post-steps: equal steps for all kinds, quantized weights at the end, options as text."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from suite.errors import BitcertError
from suite.kept import KeptState
from suite.plugins import POST_STEPS
from suite.problems import load_problem
from suite.protocols import NoPostStep, PostStep, Prepared, Request, parse_post_step, protocol_for
from suite.protocols.qat import QAT
from suite.protocols.sqwa import SQWA
from suite.protocols.training import training_of
from suite.quantize.layer import QuantizedLayer
from suite.quantize.trainable import Scheme
from suite.train.finetune import FinetuneSettings
from suite.train.loss import TrainingBatch
from suite.train.speq import SPEQLoss
from suite.train.sqwa import sqwa
from suite.workbench import Workbench, workbench_of

KINDS = tuple(name for name in POST_STEPS.names() if parse_post_step(name).trains)


def digits(name: str = "digits") -> Workbench:
    return workbench_of(load_problem(name, budget="w2a2", finetuning=FinetuneSettings(batch=16)), "network")


@cache
def bench_for(kind: str) -> Workbench:
    """Where a kind of post-step is tried: bounds need a network without batch norm."""
    return digits("digits-linf" if kind == "qa-ibp" else "digits")


def apply(bench: Workbench, step: PostStep, **settings: Any) -> Prepared:
    request = Request(protocol_for("ptq", 0), **settings)
    return step.prepare(bench, bench.space.uniform(2), request)


@pytest.fixture(scope="module")
def bench() -> Workbench:
    return bench_for("any")


@given(st.integers(2, 2000), st.integers(1, 9), st.floats(0.01, 0.99))
def test_cycles_and_finish_make_up_the_steps(steps: int, captures: int, finish: float) -> None:
    if steps < captures + 1:
        with pytest.raises(BitcertError, match="too few"):
            SQWA(steps=steps, captures=captures, finish=finish)
        return
    plan = SQWA(steps=steps, captures=captures, finish=finish).plan
    assert plan.steps == steps
    assert min(plan.captures, plan.cycle_steps, plan.finish_steps) >= 1
    assert abs(plan.finish_steps - finish * steps) <= captures + 1


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_takes_equally_many_steps_and_is_reproduced(name: str) -> None:
    steps: list[int] = []
    bench = bench_for(name)
    step = POST_STEPS.make(name, steps=12, captures=2, samples=2)
    finished = apply(bench, step, progress=steps.append)
    assert steps == list(range(1, 13))
    least, most = (passes * 16 * 12 for passes in (3, step.passes_per_image))
    assert least <= finished.forward_passes <= most + 997 * 7
    images = bench.dataset.splits["search"].images(0, 8)
    again = apply(bench_for.__wrapped__(name), step)
    other = apply(bench, step, seed=1)
    with torch.inference_mode():
        logits = [found.network(images.clone()) for found in (finished, again, other)]
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2])


@pytest.mark.parametrize("name", KINDS)
def test_weights_have_as_many_levels_as_the_policy_allows(name: str) -> None:
    bench = bench_for(name)
    finished = apply(bench, POST_STEPS.make(name, steps=6, captures=2, samples=2))
    layers = {name: module for name, module in finished.network.named_modules() if isinstance(module, QuantizedLayer)}
    assert len(layers) == len(bench.space.layers)
    for layer in bench.space.layers:
        if layer.name not in bench.space.pinned:
            rows = layers[layer.name].weight.flatten(1).numpy()
            assert max(len(np.unique(np.round(row, 6))) for row in rows) <= 3, "ternary in every output channel"


def test_without_noise_training_is_another(bench: Workbench) -> None:
    images = bench.dataset.splits["search"].images(0, 4)
    networks = [apply(bench, SQWA(steps=6, captures=2, noise=noise)).network for noise in (True, False)]
    with torch.inference_mode():
        assert not torch.equal(*(network(images.clone()) for network in networks))


def logits_after(bench: Workbench, text: str) -> torch.Tensor:
    network = apply(bench, parse_post_step(text, 4)).network
    with torch.inference_mode():
        found: torch.Tensor = network(bench.dataset.splits["search"].images(0, 8))
    return found


@pytest.fixture(scope="module")
def plain(bench: Workbench) -> torch.Tensor:
    return logits_after(bench, "qat")


@pytest.mark.parametrize(
    "text",
    [
        "speq:u=1",
        "speq:weight=0",
        "speq:weight=0:noise=fresh",
        "speq:high=2",
        "soft:weight=0",
        "radius:samples=1:weight=0",
    ],
)
def test_losses_that_add_nothing_are_plain_training_bit_for_bit(
    bench: Workbench, plain: torch.Tensor, text: str
) -> None:
    """A teacher that moved running statistics, or drew from the training's generator, would show here."""
    assert torch.equal(logits_after(bench, text), plain)


@pytest.mark.parametrize("text", ["speq", "speq:noise=fresh", "speq:u=1:noise=fresh", "soft", "radius:samples=2"])
def test_losses_that_add_something_are_not(bench: Workbench, plain: torch.Tensor, text: str) -> None:
    assert not torch.equal(logits_after(bench, text), plain)


def test_bounds_without_weight_are_plain_training_bit_for_bit() -> None:
    plain, weightless, proving = (
        logits_after(bench_for("qa-ibp"), text) for text in ("qat", "qa-ibp:weight=0:width=0", "qa-ibp")
    )
    assert torch.equal(weightless, plain)
    assert not torch.equal(proving, plain)


def test_bounds_cost_ten_passes_and_refuse_batch_norm_by_name(bench: Workbench) -> None:
    assert apply(bench_for("qa-ibp"), parse_post_step("qa-ibp", 3)).forward_passes == 10 * 16 * 3
    with pytest.raises(BitcertError, match=r"cannot pass network\.bn1 \(BatchNorm2d in training mode\)"):
        apply(bench, parse_post_step("qa-ibp", 3))
    with pytest.raises(BitcertError, match=r"radius within \(0, 1\]"):
        parse_post_step("qa-ibp:radius=2", 3)


def test_a_masked_average_that_prunes_nothing_is_swa_bit_for_bit(bench: Workbench) -> None:
    masked = "swa-masked:captures=2:log_variance=-90:weight=0:threshold=1000"
    averaged = logits_after(bench, "swa:captures=2")
    assert torch.equal(logits_after(bench, masked), averaged)
    assert not torch.equal(logits_after(bench, "swa-masked:captures=2:log_variance=2"), averaged)


def test_passes_are_those_of_the_method(bench: Workbench) -> None:
    images = 16 * 3
    names = ("qat", "speq", "speq:u=1", "soft", "radius:samples=5", "qat:steps=4")
    spent = [apply(bench, parse_post_step(name, 3)).forward_passes for name in names]
    # No image comes twice within 3 steps of 16: each of the teacher's 16 votes on each image counts.
    assert spent == [3 * images, 4 * images, 4 * images, (3 + 16) * images, 15 * images, 4 * images]


def test_the_teacher_of_speq_never_raises_pinned_layers(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    raised: set[str] = set()
    original = SPEQLoss.draw

    def record(loss: SPEQLoss, batch: TrainingBatch) -> tuple[str, ...]:
        drawn = original(loss, batch)
        raised.update(drawn)
        return drawn

    monkeypatch.setattr(SPEQLoss, "draw", record)
    apply(bench, parse_post_step("speq:u=0", 1))
    assert bench.space.pinned
    assert raised == {layer.name for layer in bench.space.layers} - set(bench.space.pinned)


def test_sqwa_keeps_a_record_and_hands_out_captures(bench: Workbench) -> None:
    step = SQWA(steps=9, captures=3)
    finished = apply(bench, step)
    assert len(finished.record["captures"]) == 3
    assert finished.record["forward_passes"] == finished.forward_passes
    kept: list[int] = []
    sqwa(
        bench.trainable(bench.space.uniform(2)),
        training_of(bench, noise=True),
        step.plan,
        captured=lambda number, _: kept.append(number),
    )
    assert kept == [0, 1, 2]


@pytest.mark.parametrize(
    ("name", "quantizer"), [*((name, "lsq") for name in KINDS), ("qat", "pact"), ("qat", "dorefa"), ("sqwa", "fixed")]
)
def test_every_kind_is_resumed_bit_for_bit_wherever_it_is_interrupted(
    name: str, quantizer: Scheme, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted three times, for the last time after the training; no step is made twice."""
    monkeypatch.setattr("suite.kept.EVERY", 0)
    bench = replace(bench_for(name), finetuning=FinetuneSettings(batch=16, quantizer=quantizer))
    step = POST_STEPS.make(name, steps=9, captures=2, samples=2)
    whole = apply(bench, step)
    seen = 0

    def stop(number: int) -> None:
        nonlocal seen
        assert number <= seen + 1
        if number > seen:
            seen = number
            if number in (2, 5, 9):
                raise KeyboardInterrupt

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            apply(bench, step, state=KeptState(tmp_path), progress=stop)
    resumed = apply(bench, step, state=KeptState(tmp_path), progress=stop)
    assert (resumed.record, resumed.forward_passes) == (whole.record, whole.forward_passes)
    expected, found = whole.network.state_dict(), resumed.network.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())
    images = bench.dataset.splits["search"].images(0, 8)
    with torch.inference_mode():
        assert torch.equal(whole.network(images.clone()), resumed.network(images.clone()))


def test_options_follow_the_name() -> None:
    step = parse_post_step("sqwa:captures=3:noise=false:averaged=masters", steps=100)
    assert step == SQWA(steps=100, captures=3, noise=False, averaged="masters")
    assert parse_post_step("qat:steps=50", steps=100).steps == 50
    assert parse_post_step("none", steps=100) == NoPostStep()
    assert parse_post_step("qat:rate=0.01").to_dict() == {
        "name": "qat",
        "steps": 400,
        "rate": 0.01,
        "noise": True,
        "start": "float",
    }
    assert parse_post_step("suite.protocols.qat:QAT:steps=7") == QAT(steps=7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("swqa", "unknown post-step 'swqa'"),
        ("sqwa:cycles=3", "unknown option of post-step sqwa 'cycles'"),
        ("qat:captures=7", "unknown option of post-step qat 'captures'; known: .*steps"),
        ("none:rate=5", "unknown option of post-step none 'rate'; known: none"),
        ("sqwa:seed=1", "unknown option of post-step sqwa 'seed'"),
        ("qat:5", "options of a post-step are given as NAME=VALUE"),
        ("suite.protocols.ptq:PTQ", "cannot be used as post-step: it does not inherit from .*PostStep"),
        ("sqwa:captures=0", "captures >= 1"),
        ("sqwa:steps=5", "5 steps are too few for 5 cycles"),
        ("sqwa:captures=x", "captures of post-step sqwa must be .*integer, got 'x'"),
        ("sqwa:noise=1", "noise of post-step sqwa must be .*boolean, got 1"),
        ("sqwa:finish=1", "share of the steps"),
        ("qat:rate=-1", "rate must be a positive number"),
        ("speq:u=2", "u is a probability"),
        ("speq:rate=-1", "rate must be a positive number"),
        ("speq:noise=old", "noise of post-step speq must be .*'same' or 'fresh'"),
        ("soft:samples=0", "samples >= 1"),
        ("radius:gamma=0", "gamma > 0"),
        ("swa-masked:speed=0", "speed > 0"),
        ("swa-masked:captures=0", "captures >= 1"),
        ("sqwa:averaged=all", "averaged of post-step sqwa must be .*'quantized' or 'masters', got 'all'"),
    ],
)
def test_mistakes_are_named(text: str, message: str) -> None:
    with pytest.raises(BitcertError, match=message):
        parse_post_step(text)


def test_a_policy_without_post_step_is_prepared_as_its_search_did(bench: Workbench) -> None:
    policy, images = bench.space.uniform(2), bench.dataset.splits["search"].images(0, 8)
    for text, steps in (("ptq", 0), ("finetune", 2)):
        protocol = protocol_for(None, steps)
        assert protocol == protocol_for(text, steps)
        request = Request(protocol, steps)
        networks = [step.prepare(bench, policy, request).network for step in (NoPostStep(), protocol)]
        with torch.inference_mode():
            first, second = (network(images.clone()) for network in networks)
        assert torch.equal(first, second)


def test_steps_that_contradict_the_protocol_are_refused() -> None:
    assert [protocol_for(text, 0).choose_steps(None) for text in ("ptq", "finetune")] == [0, 100]
    for text, steps in (("ptq", 3), ("finetune", 0)):
        with pytest.raises(BitcertError, match=f"protocol {text} and {steps} finetuning steps contradict"):
            protocol_for(text, 0).choose_steps(steps)
