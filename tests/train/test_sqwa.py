"""SQWA: what averaging and quantizing again must do exactly, and that a training goes on where it stopped."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from suite.contract.space import SearchSpace
from suite.data import ImageSplit
from suite.data.images import PixelArray
from suite.errors import BitcertError
from suite.kept import KeptState
from suite.networks import build_network, trace_layers
from suite.quantize import Calibration, TrainableNetwork, calibrate
from suite.quantize.steps import fit_steps, quantize, weight_grid
from suite.quantize.trainable import FixedStep, Scheme
from suite.train.finetune import FinetuneSettings
from suite.train.sqwa import Average, SQWARecord, SQWASettings, State, Training, capture, mean_loss, resolve_steps, sqwa

SHAPE = (1, 8, 8)
SHORT = SQWASettings(captures=3, cycle_steps=3, finish_steps=2, rate=3e-3)


def training_images() -> ImageSplit:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, size=(48, *SHAPE)).astype(np.uint8)
    return ImageSplit(np.arange(48), pixels[:, 0, 0, 0].astype(np.int64) // 64, PixelArray(pixels, 255))


@pytest.fixture(scope="module")
def float_network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_network("resnet8", 4, 1).eval().requires_grad_(False)


def trainable(network: nn.Module, bits: int = 2, scheme: Scheme = "fixed") -> TrainableNetwork:
    layers = trace_layers(network, SHAPE)
    return TrainableNetwork(network, layers, SearchSpace(layers, pins={}).uniform(bits), seen(network), scheme)


def seen(network: nn.Module) -> Calibration:
    names = [layer.name for layer in trace_layers(network, SHAPE)]
    return calibrate(network, names, [training_images().images()], per_channel=False)


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    split = training_images()
    return [(split.images(), torch.tensor(split.labels))]


def run(
    network: TrainableNetwork,
    settings: SQWASettings = SHORT,
    seed: int = 0,
    *,
    sigma: float = 0.25,
    progress: Callable[[int], None] | None = None,
    state: KeptState | None = None,
    captured: Callable[[int, State], None] | None = None,
) -> SQWARecord:
    finetuning = FinetuneSettings(batch=16, quantizer=network.scheme)
    training = Training(training_images(), sigma, finetuning, seed, batches(), progress, state=state)
    return sqwa(network, training, settings, captured=captured)


def levels(weight: torch.Tensor, step: torch.Tensor) -> set[float]:
    return {round(value, 4) for value in (weight / step).flatten().tolist()}


@pytest.mark.parametrize("captures", [1, 2, 5, 7])
def test_the_mean_of_ternary_networks_with_one_step_has_few_levels_and_is_ternary_once_quantized_again(
    captures: int,
) -> None:
    step, rng = torch.tensor(0.3), np.random.default_rng(captures)
    average = Average()
    for _ in range(captures):
        weights = torch.from_numpy(rng.standard_normal((64, 9))).float()
        average.add({"weight": quantize(weights, step, weight_grid(2))})
    mean = average.state["weight"].float()
    assert len(levels(mean, step)) <= 2 * captures + 1
    again = quantize(mean, fit_steps(mean.flatten()[None], weight_grid(2))[0], weight_grid(2))
    assert len(set(again.flatten().tolist())) <= 3


def test_levels_hold_for_the_captures_of_a_training(float_network: nn.Module) -> None:
    network = trainable(float_network)
    kept: list[State] = []
    run(network, captured=lambda _, state: kept.append(state))
    assert len(kept) == 3
    for name, layer in network.layers().items():
        step = trainable(float_network).layers()[name].quantize_weights.step
        assert isinstance(step, torch.Tensor)
        for state in kept:
            assert len(levels(state[f"{name}.weight"], step)) <= 3
        average = Average()
        for state in kept:
            average.add(state)
        assert len(levels(average.state[f"{name}.weight"], step)) <= 7
        assert len(set(layer.quantize_weights(layer.weight).flatten().tolist())) <= 3


def test_averaging_one_capture_changes_nothing(float_network: nn.Module) -> None:
    taken = capture(trainable(float_network))
    average = Average()
    average.add(taken)
    assert all(torch.equal(average.state[name].to(tensor.dtype), tensor) for name, tensor in taken.items())


def test_equal_captures_are_a_fixed_point_of_averaging_and_quantizing(float_network: nn.Module) -> None:
    network = trainable(float_network, bits=3)
    taken, average = capture(network), Average()
    for _ in range(4):
        average.add(taken)
    assert all(torch.allclose(average.state[name].to(tensor.dtype), tensor) for name, tensor in taken.items())
    network.network.load_state_dict({name: tensor.to(taken[name].dtype) for name, tensor in average.state.items()})
    resolve_steps(network)
    for name, layer in network.layers().items():
        assert torch.allclose(layer.quantize_weights(layer.weight), taken[f"{name}.weight"], atol=1e-6)


def test_the_average_is_the_mean_whatever_the_number_of_captures() -> None:
    tensors = [torch.randn(5, generator=torch.Generator().manual_seed(seed)) for seed in range(6)]
    average = Average()
    for number, tensor in enumerate(tensors):
        average.add({"weight": tensor, "count": torch.tensor(number)})
    assert torch.allclose(average.state["weight"], torch.stack(tensors).double().mean(dim=0))
    assert (average.count, int(average.state["count"])) == (6, 5)


def test_new_steps_are_the_least_squares_steps_of_the_masters(float_network: nn.Module) -> None:
    network = trainable(float_network, bits=3)
    with torch.no_grad():
        for layer in network.layers().values():
            layer.weight.mul_(1.7)
    resolve_steps(network)
    for layer in network.layers().values():
        quantizer = layer.quantize_weights
        assert isinstance(quantizer, FixedStep)
        errors = [
            float(
                (quantize(layer.weight.detach(), quantizer.step * factor, quantizer.grid) - layer.weight.detach())
                .square()
                .sum()
            )
            for factor in (1.0, 0.97, 1.03)
        ]
        assert errors[0] == min(errors)


def test_masters_are_averaged_where_asked_for(float_network: nn.Module) -> None:
    network = trainable(float_network)
    quantized, masters = capture(network), capture(network, "masters")
    name, layer = next(iter(network.layers().items()))
    assert torch.equal(masters[f"{name}.weight"], layer.weight)
    assert not torch.equal(quantized[f"{name}.weight"], layer.weight)


def test_the_record_tells_the_losses_on_the_way_and_the_spend(float_network: nn.Module) -> None:
    network = trainable(float_network)
    record = run(network)
    assert len(record.captures) == 3
    assert record.finetuned == pytest.approx(mean_loss(network, batches()))
    assert np.isfinite([*record.captures, record.averaged, record.requantized]).all()
    assert record.averaged != record.requantized
    assert record.forward_passes == 3 * 16 * (3 * 3 + 2) + 48 * (3 + 5)


@pytest.mark.parametrize("scheme", ["lsq", "fixed", "dorefa"])
def test_a_seed_alone_decides(float_network: nn.Module, scheme: Scheme) -> None:
    first, again, other = (trainable(float_network, scheme=scheme) for _ in range(3))
    assert run(first) == run(again)
    assert run(other, seed=1) != run(trainable(float_network, scheme=scheme))
    for one, two in zip(first.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("last", [1, 2 * SHORT.cycle_steps, 2 * SHORT.cycle_steps + 2, SHORT.steps])
def test_a_training_cut_anywhere_goes_on_as_if_never_stopped(
    float_network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: int
) -> None:
    monkeypatch.setattr("suite.kept.EVERY", 0)
    whole, cut, resumed = (trainable(float_network, scheme="lsq") for _ in range(3))
    expected = run(whole)

    def stop(number: int) -> None:
        if number == last:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(cut, state=KeptState(tmp_path), progress=stop)
    steps: list[int] = []
    assert run(resumed, state=KeptState(tmp_path), progress=steps.append) == expected
    trained = [step for before, step in itertools.pairwise(steps) if step == before + 1 and step > last]
    assert trained == list(range(last + 1, SHORT.steps + 1))
    for one, two in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, two)


def test_a_state_of_something_else_or_damaged_is_refused(
    float_network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("suite.kept.EVERY", 0)

    def stop(number: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(trainable(float_network), state=KeptState(tmp_path), progress=stop)
    with pytest.raises(BitcertError, match="another post-step: it differs in seed; remove it to start over"):
        run(trainable(float_network), seed=1, state=KeptState(tmp_path))
    with pytest.raises(BitcertError, match="another post-step: it differs in start;"):
        run(trainable(float_network, bits=3), state=KeptState(tmp_path))
    (state,) = tmp_path.iterdir()
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(BitcertError, match=r"damaged .*; remove it to start over"):
        run(trainable(float_network), state=KeptState(tmp_path))


def test_training_lowers_the_loss(float_network: nn.Module) -> None:
    network = trainable(float_network, bits=3, scheme="lsq")
    before = mean_loss(network, batches())
    record = run(network, SQWASettings(captures=3, cycle_steps=12, finish_steps=12, rate=3e-3), sigma=0.0)
    assert record.finetuned < before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"captures": 0}, "captures must be at least 1"),
        ({"rate": 0.0}, "rate must be a positive number"),
        ({"averaged": "both"}, "unknown thing to average 'both'"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(BitcertError, match=message):
        SQWASettings(**changes)  # type: ignore[arg-type]
