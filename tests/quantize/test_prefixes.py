"""Networks that keep what their first layers compute: the same logits to the last bit, and less work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from suite.contract.space import Policy
from suite.contract.trial import Fidelity
from suite.errors import BitcertError
from suite.networks import trace_layers
from suite.problems import load_problem
from suite.quantize import QuantizedNetwork, Statistics, calibrate
from suite.quantize.layer import QuantizedLayer
from suite.quantize.prefixes import PrefixNetwork
from suite.workbench import Workbench, bench_problem, workbench_of

SPACE = load_problem("digits", budget="w8a8").space
NOTHING = Statistics(recalibrate=False)


def images(seed: int, count: int = 5) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def bench() -> Workbench:
    return workbench_of(load_problem("digits", budget="w8a8"), "a test")


def both(bench: Workbench) -> tuple[QuantizedNetwork, PrefixNetwork]:
    given = bench.network, bench.space.layers, bench.calibration
    return QuantizedNetwork(*given), PrefixNetwork(*given)


@contextmanager
def counted_layers() -> Iterator[list[QuantizedLayer]]:
    """The layers that are called."""
    called: list[QuantizedLayer] = []
    forward = QuantizedLayer.forward

    def count(layer: QuantizedLayer, inputs: Tensor) -> Tensor:
        called.append(layer)
        return forward(layer, inputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(QuantizedLayer, "forward", count)
        yield called


steps = st.tuples(
    st.lists(st.integers(0, 2), min_size=len(SPACE.layers), max_size=len(SPACE.layers)),
    st.sampled_from([NOTHING, Statistics(), Statistics(bias_correction=True)]),
    st.lists(st.integers(0, 2), min_size=1, max_size=3),
)


@given(course=st.lists(steps, min_size=2, max_size=5))
@settings(max_examples=15)
def test_whatever_was_computed_before_logits_are_equal_to_the_last_bit(
    bench: Workbench, course: list[tuple[list[int], Statistics, list[int]]]
) -> None:
    plain, keeping = both(bench)
    statistics = course[0][1]  # as in a problem, the same for all policies
    for bits, _, batches in course:
        policy = Policy.from_bits([2 + bit for bit in bits], [4 - bit for bit in bits])
        for network in (plain, keeping):
            network.set_policy(policy)
            if statistics != NOTHING:
                network.update_statistics([images(7), images(8, 3)], statistics)
        with torch.inference_mode():
            for batch in batches:
                assert torch.equal(keeping(images(batch)), plain(images(batch)))


def test_other_statistics_are_measured_again(bench: Workbench) -> None:
    plain, keeping = both(bench)
    for statistics in (Statistics(), Statistics(bias_correction=True), Statistics()):
        for network in (plain, keeping):
            network.set_policy(bench.space.uniform(3))
            network.update_statistics([images(7)], statistics)
        with torch.inference_mode():
            assert torch.equal(keeping(images(0)), plain(images(0)))


def test_only_what_differs_is_computed(bench: Workbench) -> None:
    _, keeping = both(bench)
    count = len(bench.space.layers)

    def calls(changed: int) -> int:
        """Layers called for a policy with one layer at 2 bits: to measure its statistics, and for a batch."""
        weights = [2 if layer == changed else 3 for layer in range(count)]
        with torch.inference_mode(), counted_layers() as called:
            keeping.set_policy(Policy.from_bits(weights, [3] * count))
            keeping.update_statistics([images(7)], Statistics())
            keeping(images(0))
        return len(called)

    calls(0)  # the logits of the first batch are computed twice, to compare them
    assert calls(4) == 2 * count
    assert calls(4) == 1  # the last layer, for the batch
    assert calls(6) == 2 * (count - 4)
    assert calls(count - 1) == 2 * (count - 6)
    assert calls(0) == 2 * count


def test_evaluations_of_a_problem_are_the_same() -> None:
    plain, keeping = (bench_problem(load_problem("digits", budget="w8a8"), "a test") for _ in range(2))
    made = keeping.bench
    keeping.__dict__["bench"] = replace(made, executed=PrefixNetwork(made.network, made.space.layers, made.calibration))
    rng = np.random.default_rng(0)
    first = plain.space.random(rng)
    policies = [first, plain.space.random(rng), first, plain.space.uniform(2)]
    for policy in policies:
        for fidelity in (Fidelity(images=20, noise=8), Fidelity(images=10, noise=16)):
            expected, found = (problem.evaluate(policy, fidelity, seed=1) for problem in (plain, keeping))
            assert replace(found, seconds=0.0) == replace(expected, seconds=0.0)


class Twice(nn.Module):
    """Calls a layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.second(self.first(self.first(images.flatten(1))))
        return logits


class Normalized(nn.Module):
    """Has a batch norm before its layer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(1), nn.Conv2d(1, 2, 2)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.conv(self.norm(images)).flatten(1)
        return logits


class Aliased(nn.Module):
    """Changes in place what another name still stands for, which a trace does not see."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        seen = self.first(images.flatten(1))
        other = seen
        other += 1.0
        logits: Tensor = self.second(seen)
        return logits


@pytest.mark.parametrize(
    ("network", "reason"),
    [(Twice(), "not called exactly once"), (Normalized(), "does not follow"), (Aliased(), "other logits")],
)
def test_networks_that_cannot_keep_anything_are_refused(network: nn.Module, reason: str) -> None:
    network.eval().requires_grad_(False)
    batch = torch.rand(3, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    layers = trace_layers(network, (1, 2, 2))
    calibration = calibrate(network, [layer.name for layer in layers], [batch.clone()])

    @torch.inference_mode()
    def classify() -> None:
        keeping = PrefixNetwork(network, layers, calibration)
        keeping.set_policy(Policy.from_bits([4] * len(layers), [4] * len(layers)))
        keeping(batch)

    with pytest.raises(BitcertError, match=reason):
        classify()
