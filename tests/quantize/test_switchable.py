"""The switchable network: at every policy it is the trainable network, and what bit widths share is shared."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from suite.contract.space import Policy, Precision
from suite.errors import BitcertError
from suite.problems import load_problem
from suite.quantize import QuantizedNetwork, TrainableNetwork
from suite.quantize.switchable import Sharing, SwitchableNetwork
from suite.workbench import Workbench, workbench_of


@pytest.fixture(scope="module")
def bench() -> Workbench:
    return workbench_of(load_problem("digits"), "a test")


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def policies(bench: Workbench) -> list[Policy]:
    rng = np.random.default_rng(0)
    return [bench.space.uniform(2), bench.space.random(rng), bench.space.random(rng)]


def make(bench: Workbench, **sharing: object) -> SwitchableNetwork:
    space = bench.space
    return SwitchableNetwork(
        bench.network,
        space.layers,
        space.choices,
        bench.calibration,
        pinned=space.pinned,
        sharing=Sharing(**sharing),  # type: ignore[arg-type]
    ).eval()


def disturb(network: nn.Module) -> None:
    """Give every parameter a value of its own, so that nothing is shared by chance."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1 + 0.2 * torch.rand(parameter.shape, generator=generator))


@pytest.mark.parametrize("training", [False, True])
def test_at_every_policy_it_is_the_trainable_network_bit_for_bit(
    bench: Workbench, policies: list[Policy], images: Tensor, training: bool
) -> None:
    labels = torch.arange(len(images)) % 10
    network = make(bench).train(training)
    for policy in (*policies, policies[0]):
        alone = TrainableNetwork(bench.network, bench.space.layers, policy, bench.calibration).train(training)
        network.set_policy(policy)
        network.zero_grad(set_to_none=True)
        logits, expected = network(images), alone(images)
        assert torch.equal(logits, expected)
        for found in (logits, expected):
            nn.functional.cross_entropy(found, labels).backward()
        precisions = {layer.name: bits for layer, bits in zip(bench.space.layers, policy.precisions, strict=True)}
        for name, layer in alone.layers().items():
            mine, (weight, activation) = network.layers[name], precisions[name]
            for own, other in (
                (mine.master(weight), layer.weight),
                (mine.weight_step(weight).step, layer.quantize_weights.step),
                (mine.input_step(activation).step, layer.quantize_inputs.step),
            ):
                assert isinstance(other, nn.Parameter)
                assert own.grad is not None
                assert other.grad is not None
                assert torch.equal(own.grad, other.grad)


@pytest.mark.parametrize(
    ("private", "norms"), [(False, "shared"), (False, "weights"), (False, "pairs"), (True, "pairs")]
)
def test_what_policies_inherit_is_what_it_computes(
    bench: Workbench, policies: list[Policy], images: Tensor, private: bool, norms: str
) -> None:
    network = make(bench, private_weights=private, norms=norms)
    disturb(network)
    masters, calibration = network.inherited(bench.network, bench.calibration)
    quantized = QuantizedNetwork(masters, bench.space.layers, calibration)
    for policy in (*policies, policies[1]):
        network.set_policy(policy)
        quantized.set_policy(policy)
        trainable = TrainableNetwork(masters, bench.space.layers, policy, calibration).eval()
        with torch.no_grad():
            expected = network(images)
            assert torch.equal(trainable(images), expected)
            torch.testing.assert_close(quantized(images.clone()), expected, rtol=1e-3, atol=2e-3)


def test_private_weights_and_norms_change_the_policies_that_use_them_and_no_others(
    bench: Workbench, images: Tensor
) -> None:
    network = make(bench, private_weights=True, norms="pairs")
    name = bench.space.layers[2].name
    uniform = [bench.space.uniform(2), bench.space.uniform(3), bench.space.uniform(2, 3)]

    def run() -> list[Tensor]:
        found = []
        for policy in uniform:
            network.set_policy(policy)
            with torch.no_grad():
                found.append(network(images))
        return found

    def changed(before: list[Tensor]) -> list[bool]:
        return [not torch.equal(old, new) for old, new in zip(before, run(), strict=True)]

    before = run()
    with torch.no_grad():
        network.layers[name].master(2).mul_(-1)
    assert changed(before) == [True, False, True]
    before = run()
    with torch.no_grad():
        norm = network.layers[name].norm(Precision(2, 3))
        assert isinstance(norm, nn.BatchNorm2d)
        norm.bias.add_(1)
    assert changed(before) == [False, False, True]


def test_pinned_layers_have_one_precision_and_unknown_norms_are_refused(bench: Workbench) -> None:
    network = make(bench, private_weights=True)
    first, second = list(network.layers.values())[:2]
    assert (first.bits, len(first.masters)) == (((8,), (8,)), 1)
    assert (second.bits[0], len(second.masters)) == (bench.space.choices, 7)
    with pytest.raises(BitcertError, match=r"pears.*pairs"):
        make(bench, norms="pears")
