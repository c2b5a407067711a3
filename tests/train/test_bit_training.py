"""The network as the task of a descent: exact at choices, and nothing of the network or of the random state changes."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from suite.contract.bit_settings import AdaQATSettings, BitSettings, FracBitsSettings, NIPQSettings
from suite.contract.probes import ProbeSettings
from suite.problems import load_problem
from suite.problems.vision import VisionProblem
from suite.train.bit_training import NetworkTask


@cache
def digits() -> VisionProblem:
    problem = load_problem("digits", budget="w3a3")
    assert isinstance(problem, VisionProblem)
    return problem


def task(settings: BitSettings) -> NetworkTask:
    bench = digits().bench
    split = bench.dataset.splits["train"]
    return NetworkTask(
        bench.network, bench.space, bench.calibration, split, settings, sigma=0.25, learning_rate=1e-3, seed=0
    )


def test_interpolation_at_integers_is_the_plain_quantizer_bit_for_bit() -> None:
    settings = FracBitsSettings(digits().budget, batch=8, train_weights=False)
    images, vector = torch.rand(4, 1, 8, 8), np.arange(len(digits().space.variables)) % 6
    plain, between = task(settings), task(settings)
    plain.switchable.set_policy(digits().space.decode(vector))
    slopes = between.slopes(np.array(digits().space.choices, dtype=float)[vector])
    assert torch.equal(plain.switchable(images), between.switchable(images))
    assert np.count_nonzero(slopes) == len(slopes)


def test_further_losses_change_no_statistics_and_no_random_state() -> None:
    settings = AdaQATSettings(digits().budget, batch=8)
    one, three = task(settings), task(settings)
    highest = np.full(len(digits().space.variables), 6)
    lower = highest - 3
    state = torch.get_rng_state()
    first, several = one.losses([highest]), three.losses([highest, lower, highest])
    assert several[0] == several[2] == first[0]
    assert several[1] != several[0]
    assert torch.equal(torch.get_rng_state(), state)
    other = three.switchable.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in one.switchable.state_dict().items())


@pytest.mark.parametrize("kind", [AdaQATSettings, FracBitsSettings, NIPQSettings])
def test_learning_bits_is_charged_reproduced_and_leaves_the_network_alone(kind: type[BitSettings]) -> None:
    problem = digits()
    settings = kind(problem.budget, steps=2, batch=8)
    weights = {name: value.clone() for name, value in problem.network.state_dict().items()}
    before = problem.meter.forward_passes
    found, again = (problem.probes(ProbeSettings()).learned_bits(settings) for _ in range(2))
    assert problem.meter.forward_passes - before == 2 * 2 * 8 * settings.passes(16)
    assert np.array_equal(found, again)
    assert all(torch.equal(weights[name], value) for name, value in problem.network.state_dict().items())
