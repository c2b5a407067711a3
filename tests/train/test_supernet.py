"""Supernet training: what a step adds up, how bit widths inherit, and that an interrupted training resumes bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from suite.contract.cost import bops, parse_budget
from suite.errors import BitcertError
from suite.problems import load_problem
from suite.quantize.steps import activation_grid, quantize, weight_grid
from suite.quantize.switchable import Sharing, SwitchableNetwork
from suite.train import supernet
from suite.train.supernet import (
    Schedule,
    SupernetSettings,
    accumulate_gradients,
    draw_policies,
    inherit_bits,
    train_supernet,
    training_passes,
)
from suite.workbench import Workbench, workbench_of


@pytest.fixture(scope="module")
def bench() -> Workbench:
    return workbench_of(load_problem("digits", choices=(2, 3, 4)), "a test")


def make(bench: Workbench, sharing: Sharing | None = None) -> SwitchableNetwork:
    space, sharing = bench.space, sharing or Sharing()
    return SwitchableNetwork(
        bench.network, space.layers, space.choices, bench.calibration, pinned=space.pinned, sharing=sharing
    )


def train(bench: Workbench, settings: SupernetSettings, **options: Any) -> tuple[SwitchableNetwork, dict[str, Any]]:
    network = make(bench, settings.sharing)
    split = bench.dataset.splits["train"]
    record = train_supernet(
        network, bench.space, split, sigma=0.25, settings=settings, augmentation=(False, 1), seed=0, **options
    )
    return network, record


def test_a_step_adds_the_gradients_of_its_policies_and_the_teacher_gets_none(bench: Workbench) -> None:
    space = bench.space
    policies = [space.uniform(4), space.random(np.random.default_rng(0)), space.uniform(2)]
    inputs, labels = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(8)
    network = make(bench).train()
    accumulate_gradients(network, policies, inputs, labels, 0.4)
    found = {name: parameter.grad for name, parameter in network.named_parameters() if parameter.grad is not None}
    total: dict[str, torch.Tensor] = {}
    target = None
    for policy in policies:
        alone = make(bench).train()
        alone.set_policy(policy)
        logits = alone(inputs)
        chances = logits.softmax(dim=1)
        loss = -chances[torch.arange(8), labels].log().mean()
        if target is not None:  # Kullback-Leibler divergence, written out
            loss = 0.6 * loss + 0.4 * (target * (target.log() - chances.log())).sum() / 8
        loss.backward()
        target = chances.detach()
        for name, parameter in alone.named_parameters():
            if parameter.grad is not None:
                total[name] = total.get(name, torch.zeros_like(parameter)) + parameter.grad
    assert found.keys() == total.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, total[name], rtol=1e-4, atol=1e-6)


@given(st.integers(3, 8), st.booleans(), st.floats(-1, 1), st.floats(0.01, 1))
def test_with_twice_the_step_a_bit_less_is_off_by_a_step_and_a_half_at_most(
    bits: int, signed: bool, share: float, step: float
) -> None:
    for more, less in (
        (weight_grid(bits), weight_grid(bits - 1)),
        (activation_grid(bits, signed), activation_grid(bits - 1, signed)),
    ):
        top = min(more.high, 2 * less.high) * step
        bottom = max(more.low, 2 * less.low) * step
        inside = torch.tensor([share * top if share > 0 else -share * bottom], dtype=torch.float64)
        fine, coarse = quantize(inside, step, more), quantize(inside, 2 * step, less)
        assert float((fine - coarse).abs()) <= 1.5 * step * (1 + 1e-9)
        on_grid = quantize(inside, step, more)
        distance = float((quantize(on_grid, 2 * step, less) - on_grid).abs()) / step
        assert min(abs(distance), abs(distance - 1)) < 1e-6


def test_bits_that_join_inherit_twice_the_step_and_the_weights_of_the_next_ones(bench: Workbench) -> None:
    network = make(bench, Sharing(private_weights=True, norms="shared"))
    layer = list(network.layers.values())[1]
    with torch.no_grad():
        layer.master(3).add_(1)
    inherit_bits(layer, 2)
    assert torch.equal(layer.weight_step(2).step, 2 * layer.weight_step(3).step)
    assert torch.equal(layer.input_step(2).step, 2 * layer.input_step(3).step)
    assert torch.equal(layer.master(2), layer.master(3))
    pinned = next(iter(network.layers.values()))
    before = pinned.weight_step(8).step.clone()
    inherit_bits(pinned, 2)
    assert torch.equal(pinned.weight_step(8).step, before)


def test_the_schedule_lets_bits_join_at_equal_distances_most_bits_first() -> None:
    schedule = Schedule.make((2, 3, 4, 8), SupernetSettings(steps=100, growth=0.3))
    assert schedule.starts == (30, 20, 10, 0)
    assert [schedule.joined(step) for step in (0, 10, 29, 30)] == [(8,), (4, 8), (3, 4, 8), (2, 3, 4, 8)]
    assert [schedule.joining(step) for step in (0, 10, 11, 30)] == [(), (4,), (), (2,)]
    at_once = Schedule.make((2, 3), SupernetSettings(inheritance="none"))
    assert at_once.joined(0) == (2, 3)
    assert not any(at_once.joining(step) for step in range(5))


def test_random_policies_are_drawn_within_budgets_near_the_fewest_bits(bench: Workbench) -> None:
    space, rng = load_problem("digits").space, np.random.default_rng(0)
    drawn = [draw_policies(space, space.choices, 2, rng) for _ in range(60)]
    assert all(step[0] == space.uniform(8) and step[-1] == space.uniform(2) for step in drawn)
    between = [policy for step in drawn for policy in step[1:-1]]
    costs = np.array([bops(space, policy) for policy in between])
    limits = [parse_budget(f"w{bits}a{bits}", space).limits[0].most for bits in (2.5, 3, 4, 6)]
    assert (costs <= limits[-1]).all()
    shares = [(costs <= limit).mean() for limit in limits[:-1]]
    assert 0.1 < shares[0] < 0.45, "one budget of five, and what other budgets leave by chance"
    assert shares[0] < shares[1] < shares[2]
    assert draw_policies(space, (8,), 2, rng) == [space.uniform(8)]


def test_passes_are_three_for_each_image_and_policy_of_every_step(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    policies: list[int] = []
    real = draw_policies

    def counted(*arguments: object) -> object:
        drawn = real(*arguments)  # type: ignore[arg-type]
        policies.append(len(drawn))
        return drawn

    monkeypatch.setattr(supernet, "draw_policies", counted)
    settings = SupernetSettings(steps=6, batch=8, growth=0.7, random=2)
    _, record = train(bench, settings)
    assert record["forward_passes"] == 3 * 8 * sum(policies) == training_passes((2, 3, 4), settings)
    assert min(policies) == 1 < max(policies)


def test_an_interrupted_training_resumes_bit_for_bit(
    bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supernet, "_EVERY", 2)
    settings = SupernetSettings(steps=7, batch=16, growth=0.5, private_weights=True, norms="pairs")
    whole, record = train(bench, settings)

    def interrupt(step: int, _: float) -> None:
        if step == 5:
            raise KeyboardInterrupt

    resume = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        train(bench, settings, resume=resume, progress=interrupt)
    resumed, again = train(bench, settings, resume=resume)
    assert again == record
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
    with pytest.raises(BitcertError, match="another supernet training"):
        train(bench, SupernetSettings(steps=8, batch=16, private_weights=True, norms="pairs"), resume=resume)


def test_training_lowers_the_loss_and_keeps_no_statistics(bench: Workbench) -> None:
    network, record = train(bench, SupernetSettings(steps=12, inheritance="none"))
    _, first = train(bench, SupernetSettings(steps=1, inheritance="none"))
    assert all(last < before for last, before in zip(record["losses"], first["losses"], strict=True))
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    known = [module for module in bench.network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm, own in zip(norms, known, strict=True):
        assert torch.equal(norm.running_mean, own.running_mean)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [{"steps": -1}, {"batch": 1}, {"rate": 0.0}, {"distillation": 1.0}, {"inheritance": "halved"}, {"norms": "x"}],
)
def test_settings_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(BitcertError):
        SupernetSettings(**options)  # type: ignore[arg-type]
