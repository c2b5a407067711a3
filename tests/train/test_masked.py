"""The one-way variational mask: its divergence, what is pruned and stays so, and when nothing is."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from suite.errors import BitcertError
from suite.problems import load_problem
from suite.protocols.swa import quantize_average
from suite.protocols.training import training_of
from suite.quantize import TrainableNetwork
from suite.quantize.layer import QuantizedLayer
from suite.train.finetune import FinetuneSettings, finetune
from suite.train.masked import (
    MaskedWeights,
    MaskSettings,
    VariationalLoss,
    keep_pruned,
    log_uniform_divergence,
    mask_weights,
    masks_of,
    remove_masks,
)
from suite.workbench import Workbench, workbench_of

EAGER = MaskSettings(log_variance=2.0, weight=1.0, speed=100.0)  # prunes from the first step on


@pytest.fixture(scope="module")
def bench() -> Workbench:
    return workbench_of(load_problem("digits", budget="w2a2", finetuning=FinetuneSettings(batch=16)), "network")


def float_network(bench: Workbench) -> TrainableNetwork:
    return TrainableNetwork(bench.network, bench.space.layers, bench.float_policy(), bench.calibration)


def train(
    bench: Workbench, network: TrainableNetwork, settings: MaskSettings, steps: int = 4
) -> list[dict[str, torch.Tensor]]:
    """Masks after each step."""
    split = bench.dataset.splits["train"]
    seen: list[dict[str, torch.Tensor]] = []
    finetune(
        network,
        split,
        steps=steps,
        sigma=bench.sigma,
        settings=bench.finetuning,
        seed=0,
        loss=VariationalLoss(settings, len(split)),
        progress=lambda _: seen.append({name: masked.mask.clone() for name, masked in masks_of(network).items()}),
    )
    return seen


@pytest.mark.parametrize("log_alpha", [-4.0, -2.0, 0.0, 2.0, 4.0])
def test_the_divergence_is_the_integral_up_to_its_constant(log_alpha: float) -> None:
    """KL = E log|1 + sqrt(alpha) eps| - log(alpha) / 2 + constant, which the approximation fixes to 0 at infinity."""

    def exact(value: float) -> float:
        deviation = math.exp(value / 2)
        points = [-1 / deviation] if 1 / deviation < 12 else None
        mean, _ = integrate.quad(
            lambda e: math.log(abs(1 + deviation * e) + 1e-300) * stats.norm.pdf(e), -12, 12, points=points, limit=400
        )
        return mean - value / 2

    at_infinity = -0.5 * (np.euler_gamma + math.log(2))  # E log|eps|
    found = float(log_uniform_divergence(torch.tensor(log_alpha)))
    assert found == pytest.approx(exact(log_alpha) - at_infinity, abs=0.02)


def test_the_mask_only_shrinks_and_pruned_weights_compute_as_zero(bench: Workbench) -> None:
    network = float_network(bench)
    mask_weights(network, EAGER)
    seen = train(bench, network, EAGER)
    shares = [sum(int(mask.sum()) for mask in masks.values()) for masks in seen]
    assert shares[0] > shares[-1] > 0
    for earlier, later in itertools.pairwise(seen):
        assert all(bool((later[name] <= earlier[name]).all()) for name in later)
    layer = next(iter(network.layers().values()))
    masked = layer.quantize_weights
    assert isinstance(masked, MaskedWeights)
    assert torch.equal(masked(layer.weight), layer.weight * masked.mask)


def test_a_pruned_weight_stays_pruned_whatever_its_alpha() -> None:
    weight = torch.tensor([0.0, 1.0])
    masked = MaskedWeights(weight, MaskSettings())
    masked.prune(weight)
    masked.prune(torch.ones(2))
    assert masked.mask.tolist() == [False, True]


def test_without_noise_and_pruning_training_is_plain(bench: Workbench) -> None:
    """Bit for bit: the mask's own noise is drawn elsewhere, and its parameters are none of the network's."""
    plain, masked = float_network(bench), float_network(bench)
    settings = MaskSettings(log_variance=-90.0, weight=0.0, threshold=1e3)
    mask_weights(masked, settings)
    train(bench, masked, settings, steps=3)
    finetune(plain, bench.dataset.splits["train"], steps=3, sigma=bench.sigma, settings=bench.finetuning, seed=0)
    assert all(mask.all() for mask in remove_masks(masked).values())
    for name, tensor in plain.state_dict().items():
        assert torch.equal(masked.state_dict()[name], tensor), name


def test_pruned_weights_are_zero_after_quantization_and_finish(bench: Workbench) -> None:
    network = float_network(bench)
    mask_weights(network, EAGER)
    train(bench, network, EAGER)
    masks = remove_masks(network)
    training = training_of(bench, noise=True)
    quantized = quantize_average(bench, bench.space.uniform(2), network, training)
    keep_pruned(quantized, masks)
    before = {name: int((layer.weight == 0).sum()) for name, layer in quantized.layers().items()}
    moved = {name: layer.weight.detach().clone() for name, layer in quantized.layers().items()}
    training.run(quantized, 3, 1e-2, "finish", 0, done=0)
    frozen = {name: module for name, module in quantized.freeze().named_modules() if isinstance(module, QuantizedLayer)}
    for name, mask in masks.items():
        weight = quantized.layers()[name].weight
        assert (~mask).any()
        assert not weight[~mask].any()
        assert not torch.equal(weight, moved[name]), "what is left is trained"
        assert not frozen[name].weight[~mask].any()
        assert int((frozen[name].weight == 0).sum()) >= before[name]


def test_weights_without_a_level_zero_cannot_stay_pruned() -> None:
    bench = workbench_of(load_problem("digits-low", budget="w1a1", finetuning=FinetuneSettings(batch=16)), "network")
    network = bench.trainable(bench.space.uniform(1))
    masks = {name: torch.ones_like(layer.weight, dtype=torch.bool) for name, layer in network.layers().items()}
    keep_pruned(network, masks)
    for mask in masks.values():
        mask.view(-1)[0] = False
    with pytest.raises(BitcertError, match="have no level 0"):
        keep_pruned(network, masks)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"weight": -1.0}, "weight >= 0"), ({"speed": 0.0}, "speed > 0"), ({"log_variance": math.nan}, "must be finite")],
)
def test_options_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(BitcertError, match=message):
        MaskSettings(**options)
