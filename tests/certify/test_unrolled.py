"""Exact verification over time steps: the same verdicts as listing all images, and intervals that hold for them."""

from __future__ import annotations

from functools import cache
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from suite.certify.linf import unrolled
from suite.certify.linf.step_functions import Sum, Unrolled
from suite.certify.linf.unrolled import UnrolledVerdict, verify_integer
from suite.contract.space import Policy, Precision
from suite.errors import BitcertError
from suite.networks import trace_layers
from suite.networks.spiking import SpikingNetwork, TracedNeurons
from suite.quantize import QuantizedNetwork, calibrate
from suite.quantize.integer import IntegerNetwork, integer_network

pytest.importorskip("ortools")

LEVELS, SPIKES = 8, ("first.feedback", "between", "second.feedback")
CASES = [(seed, steps) for seed in range(6) for steps in (2, 3, 4)]


def lowered(network: nn.Module, bits: int, shape: tuple[int, int, int] = (1, 2, 2)) -> IntegerNetwork:
    """With inputs and weights of some bits, but spikes of one and leaks of eight."""
    network = network.eval().requires_grad_(False)
    layers = trace_layers(network, shape)
    images = torch.rand((64, *shape), generator=torch.Generator().manual_seed(1))
    quantized = QuantizedNetwork(network, layers, calibrate(network, [layer.name for layer in layers], [images]))
    pairs = [(8 if layer.kind == "state" else bits, 1 if layer.name in SPIKES else bits) for layer in layers]
    quantized.set_policy(Policy(tuple(Precision(*pair) for pair in pairs)))
    return integer_network(quantized, [images])


@cache
def spiking(seed: int, steps: int) -> IntegerNetwork:
    """Four pixels; 2 to 4 bits, and every third with traces of synapses."""
    torch.manual_seed(seed)
    kind = {"kind": TracedNeurons} if seed % 3 == 2 else {}
    network = SpikingNetwork(4, (6, 4), 3, steps, (0.5,), (0.2,), **kind)
    with torch.no_grad():
        for layer in (network.input, network.between, network.first.feedback):
            layer.weight.mul_(3)
    return lowered(network, 2 + seed % 3)


def image(network: IntegerNetwork, seed: int) -> tuple[Tensor, int]:
    levels = torch.randint(0, LEVELS + 1, (1, 2, 2), generator=torch.Generator().manual_seed(seed))
    return levels, int(network(levels[None] / LEVELS).argmax())


def box(levels: Tensor, radius: int) -> Tensor:
    """All images within a radius."""
    pixels = [range(max(0, level - radius), min(LEVELS, level + radius) + 1) for level in levels.flatten().tolist()]
    return torch.tensor(list(product(*pixels))).reshape(-1, *levels.shape)


def check(network: IntegerNetwork, levels: Tensor, label: int, radius: int) -> UnrolledVerdict:
    """The verdict, which must be that of listing all images."""
    found = verify_integer(network, levels, label, radius, LEVELS, work=20)
    robust = bool((network(box(levels, radius) / LEVELS).argmax(dim=1) == label).all())
    assert found.status == ("robust" if robust else "not robust")
    if found.counterexample is not None:
        point = torch.tensor(found.counterexample).reshape(levels.shape)
        assert int((point - levels).abs().max()) <= radius
        assert int(network(point[None] / LEVELS).argmax()) != label
    return found


def test_verdicts_equal_enumeration_without_an_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unrolled, "_attack", lambda *_: None)
    seen = []
    for seed, steps in CASES:
        network = spiking(seed, steps)
        for radius in (1, 2):
            found = check(network, *image(network, seed), radius)
            seen.append((found.status, found.by))
            assert (found.work > 0) <= (found.by == "cp-sat")
    for outcome in (("robust", "bounds"), ("robust", "cp-sat"), ("not robust", "cp-sat")):
        assert outcome in seen


def test_an_attack_finds_what_a_solver_finds() -> None:
    network = spiking(0, 3)
    found = {check(network, *image(network, seed), 2).by for seed in range(12)}
    assert "attack" in found


def test_a_wrong_prediction_is_robust_at_no_radius() -> None:
    network = spiking(0, 2)
    levels, label = image(network, 0)
    found = verify_integer(network, levels, (label + 1) % 3, 0, LEVELS, work=1)
    assert (found.status, found.by) == ("not robust", "network")
    assert found.counterexample == tuple(levels.flatten().tolist())
    assert check(network, levels, label, 0).status == "robust"


@pytest.mark.parametrize(("seed", "steps"), CASES)
def test_every_value_is_the_step_function_of_its_root(seed: int, steps: int) -> None:
    network = spiking(seed, steps)
    levels, _ = image(network, seed)
    points = box(levels, 2)[::3]
    bounds = Unrolled(network, (levels - 2).clamp(min=0), (levels + 2).clamp(max=LEVELS), LEVELS)
    values = {network.images: points / LEVELS}
    for step in network.steps:
        assert step.operation is not None
        values[step.output] = step.operation(*(values[name].clone() for name in step.inputs))
    sums = _sums(bounds, values)
    for name, functions in bounds.values.items():
        for place, function in enumerate(functions):
            codes = values[name][:, place].long()
            if function.root < 0:
                assert set(codes.tolist()) == {int(function.values[0])}
                continue
            starts = torch.from_numpy(function.starts)
            found = torch.searchsorted(starts, sums[function.root], right=True) - 1
            assert torch.equal(torch.from_numpy(function.values)[found], codes)


def _sums(bounds: Unrolled, values: dict[str, Tensor]) -> list[Tensor]:
    """What every root is for some images, which must be in its interval."""
    sums: list[Tensor] = []
    encoded = next(iter(bounds.values))
    for place, root in enumerate(bounds.roots):
        if not isinstance(root, Sum):
            sums.append(values[encoded][:, place].long())
            assert set(sums[-1].tolist()) <= set(root.tolist())
            continue
        total = torch.full_like(sums[0], root.constant)
        for factor, function in root.terms:
            found = torch.searchsorted(torch.from_numpy(function.starts), sums[function.root], right=True) - 1
            total += factor * torch.from_numpy(function.values)[found]
        assert root.low <= int(total.min()) <= int(total.max()) <= root.high
        sums.append(total)
    return sums


def test_what_a_limit_of_work_leaves_is_unknown_and_the_same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unrolled, "_attack", lambda *_: None)
    for seed, steps in CASES:
        network = spiking(seed, steps)
        levels, label = image(network, seed)
        found = [verify_integer(network, levels, label, 2, LEVELS, work=1e-6) for _ in range(2)]
        assert found[0] == found[1]
        if found[0].status == "unknown":
            return
    pytest.fail("a millionth of a unit decided everything")


@pytest.mark.parametrize(("mean", "std"), [(0.5, 0.25), (0.1307, 0.3081)])
def test_a_network_without_a_state_is_verified_too(mean: float, std: float) -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 3)

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.last(torch.relu(self.first(((images - mean) / std).flatten(1))))
            return logits

    torch.manual_seed(3)
    network = lowered(Plain(), 4)
    for seed in range(4):
        check(network, *image(network, seed), 1)


class Squares(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.first(images.flatten(1))
        logits: Tensor = self.last(hidden * hidden)
        return logits


CONVOLUTION = nn.Sequential(nn.Conv2d(1, 2, 2), nn.Flatten(), nn.Linear(2, 3))


@pytest.mark.parametrize(("network", "name"), [(CONVOLUTION, "Conv2d"), (Squares(), "Multiply")])
def test_what_cannot_be_verified_is_named(network: nn.Module, name: str) -> None:
    levels = torch.zeros((1, 2, 2), dtype=torch.int64)
    with pytest.raises(BitcertError, match=rf"^{name} \(.*\) cannot be verified over time steps"):
        Unrolled(lowered(network, 4), levels, levels, LEVELS)


def test_arguments_out_of_range_are_refused() -> None:
    network = spiking(0, 2)
    levels, label = image(network, 0)
    for radius, work, given in ((-1, 1.0, levels), (1, 0.0, levels), (1, 1.0, levels + LEVELS)):
        with pytest.raises(BitcertError, match="expected a radius"):
            verify_integer(network, given, label, radius, LEVELS, work=work)
