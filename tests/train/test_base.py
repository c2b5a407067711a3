"""Base training: determinism, resumption, and that the network learns under noise."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from suite.data import ImageSplit, load_dataset
from suite.errors import BitcertError
from suite.networks import Normalization, build_network, network_sha256
from suite.train.base import TrainingImages, TrainSettings, augment, one_cycle, train_base

_SETTINGS = TrainSettings(epochs=3, batch=32, flip=True, shift=1)


@pytest.fixture(scope="module")
def split() -> ImageSplit:
    return load_dataset("digits").splits["train"].subset(range(96))


def _small(dropout: float = 0.0) -> nn.Module:
    return nn.Sequential(
        Normalization((0.5,), (0.5,)),
        nn.Conv2d(1, 8, 3, stride=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(72, 10),
    )


def _trained(split: ImageSplit, dropout: float = 0.0, seed: int = 0, sigma: float = 0.25) -> str:
    record = train_base(_small(dropout), split, sigma=sigma, settings=_SETTINGS, seed=seed)
    assert isinstance(record["network_sha256"], str)
    return record["network_sha256"]


def test_one_cycle_is_that_of_torch() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.2, total_steps=37, cycle_momentum=False)
    for step in range(37):
        assert one_cycle(step, 37, 0.2) == pytest.approx(schedule.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        if step < 36:
            schedule.step()


def test_the_same_seed_gives_the_same_network_whatever_else_is_random(split: ImageSplit) -> None:
    first = _trained(split, dropout=0.5)
    torch.rand(3)
    network = _small(0.5)
    before = torch.random.get_rng_state()
    assert train_base(network, split, sigma=0.25, settings=_SETTINGS, seed=0)["network_sha256"] == first
    assert torch.equal(torch.random.get_rng_state(), before)


def test_seed_and_sigma_change_the_network(split: ImageSplit) -> None:
    assert len({_trained(split), _trained(split, seed=1), _trained(split, sigma=0.26)}) == 3


class _StoppedError(Exception):
    """Stands for a killed process."""


def _stop_after(last: int) -> Callable[[int, int, float, float], None]:
    def report(epoch: int, epochs: int, loss: float, accuracy: float) -> None:
        if epoch == last:
            raise _StoppedError

    return report


@pytest.mark.parametrize("last", [1, 2, 3])
def test_a_resumed_training_equals_an_uninterrupted_one(split: ImageSplit, tmp_path: Path, last: int) -> None:
    state = tmp_path / "training.resume"
    whole = train_base(_small(0.5), split, sigma=0.25, settings=_SETTINGS, seed=0)
    with pytest.raises(_StoppedError):
        train_base(_small(0.5), split, sigma=0.25, settings=_SETTINGS, seed=0, resume=state, progress=_stop_after(last))
    network = _small(0.5)
    epochs: list[int] = []
    record = train_base(
        network,
        split,
        sigma=0.25,
        settings=_SETTINGS,
        seed=0,
        resume=state,
        progress=lambda epoch, *rest: epochs.append(epoch),
    )
    assert record == whole
    assert network_sha256(network) == whole["network_sha256"]
    assert epochs == list(range(last + 1, 4))


@pytest.mark.parametrize("change", ["seed", "sigma", "settings", "network", "images"])
def test_the_state_of_another_training_is_refused(split: ImageSplit, tmp_path: Path, change: str) -> None:
    state = tmp_path / "training.resume"
    train_base(_small(), split, sigma=0.25, settings=_SETTINGS, seed=0, resume=state)
    with pytest.raises(BitcertError, match="belongs to another training"):
        train_base(
            build_network("resnet8", 10, 1) if change == "network" else _small(),
            split.subset(range(95, -1, -1)) if change == "images" else split,
            sigma=0.5 if change == "sigma" else 0.25,
            settings=replace(_SETTINGS, rate=0.05) if change == "settings" else _SETTINGS,
            seed=1 if change == "seed" else 0,
            resume=state,
        )


@pytest.mark.parametrize("content", [b"", b"garbage"])
def test_a_damaged_state_is_named(split: ImageSplit, tmp_path: Path, content: bytes) -> None:
    state = tmp_path / "training.resume"
    state.write_bytes(content)
    with pytest.raises(BitcertError, match=r"training\.resume is damaged .*remove it to start over"):
        train_base(_small(), split, sigma=0.25, settings=_SETTINGS, seed=0, resume=state)


def test_the_digits_network_learns_under_noise() -> None:
    split = load_dataset("digits").splits["train"].subset(range(500))
    network = build_network("resnet8", 10, 1)
    seen: list[tuple[int, int, float, float]] = []
    record = train_base(
        network,
        split,
        sigma=0.25,
        settings=TrainSettings(epochs=6, batch=50),
        seed=0,
        progress=lambda *report: seen.append(report),
    )
    assert [report[:2] for report in seen] == [(epoch, 6) for epoch in range(1, 7)]
    assert seen[-1][2] < 0.5 * seen[0][2]
    # 150 held-out images: guessing would be right on 0.1 of them
    held_out = load_dataset("digits").splits["search"].subset(range(150))
    assert not network.training
    assert (network(held_out.images()).argmax(dim=1).numpy() == held_out.labels).mean() > 0.8
    assert (record["loss"], record["noisy_accuracy"]) == seen[-1][2:]


def test_noise_is_added_in_the_units_of_the_images(split: ImageSplit) -> None:
    flat = ImageSplit(split.ids, split.labels, _Gray())
    network = _small()
    seen: list[torch.Tensor] = []
    network.get_submodule("0").register_forward_hook(lambda module, args, output: seen.append(args[0]))
    settings = TrainSettings(epochs=5, batch=32)
    train_base(network, flat, sigma=0.4, settings=settings, seed=0)
    noise = torch.cat(seen) - 0.5
    # 30,720 normal values: mean and deviation are within 5 standard errors but for a chance of 1e-6
    assert noise.numel() == 5 * 96 * 64
    assert abs(noise.mean().item()) < 5 * 0.4 / math.sqrt(noise.numel())
    assert abs(noise.std().item() - 0.4) < 5 * 0.4 / math.sqrt(2 * noise.numel())
    assert len(torch.unique(noise)) > 0.9 * noise.numel()


class _Gray:
    """Every image is 0.5 everywhere."""

    def read(self, ids: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> torch.Tensor:
        return torch.full((len(ids), 1, 8, 8), 0.5)


@pytest.mark.parametrize("change", [{"precision": "bfloat16"}, {"channels_last": True}])
def test_precision_and_layout_change_rounding_only(split: ImageSplit, change: dict[str, Any]) -> None:
    network, settings = _small(), replace(_SETTINGS, **change)
    record = train_base(network, split, sigma=0.25, settings=settings, seed=0)
    plain = train_base(_small(), split, sigma=0.25, settings=_SETTINGS, seed=0)
    assert record["loss"] == pytest.approx(plain["loss"], rel=0.02)
    assert {tensor.dtype for tensor in network.state_dict().values()} == {torch.float32, torch.int64}


def test_bfloat16_is_what_convolutions_compute_in(split: ImageSplit) -> None:
    network = _small()
    seen: list[torch.dtype] = []
    network.get_submodule("1").register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    train_base(network, split, sigma=0.25, settings=replace(_SETTINGS, precision="bfloat16"), seed=0)
    assert set(seen) == {torch.bfloat16}
    with torch.no_grad():
        network(split.images(0, 2))
    assert seen[-1] == torch.float32


def test_consistency_trains_on_two_noise_samples_of_each_image(split: ImageSplit) -> None:
    flat = ImageSplit(split.ids, split.labels, _Gray())
    network = _small()
    seen: list[torch.Tensor] = []
    network.get_submodule("0").register_forward_hook(lambda module, args, output: seen.append(args[0]))
    train_base(network, flat, sigma=0.4, settings=replace(_SETTINGS, shift=0, consistency=10.0), seed=0)
    assert [len(inputs) for inputs in seen] == [64] * 9
    first, second = seen[0].chunk(2)
    # 2,048 pairs of independent normal values: their correlation is within 5 standard errors of 0
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 5 / math.sqrt(first.numel())


def test_images_kept_on_a_device_are_those_read_by_batch(split: ImageSplit) -> None:
    order = torch.tensor([5, 0, 95, 7])
    read = TrainingImages(split, torch.device("cpu")).read(order)
    kept = TrainingImages(split, torch.device("meta")).read(order)
    assert [tuple(part.shape) for part in read] == [(4, 1, 8, 8), (4,)] == [tuple(part.shape) for part in kept]
    assert torch.equal(read[0], split.images()[order])
    assert read[1].tolist() == split.labels[order].tolist()


def test_a_diverging_training_names_the_epoch_and_the_rate(split: ImageSplit) -> None:
    settings = TrainSettings(epochs=3, batch=32, rate=1e30)
    with pytest.raises(BitcertError, match=r"loss became (nan|inf) in epoch 1; train at a lower rate than 1e\+30"):
        train_base(_small(), split, sigma=0.25, settings=settings, seed=0)


def test_the_number_of_threads_is_restored(split: ImageSplit) -> None:
    before = torch.get_num_threads()
    inside: list[int] = []
    settings = TrainSettings(epochs=1, batch=32, threads=before + 1)
    train_base(
        _small(),
        split,
        sigma=0.25,
        settings=settings,
        seed=0,
        progress=lambda *_: inside.append(torch.get_num_threads()),
    )
    assert (inside, torch.get_num_threads()) == ([before + 1], before)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("batch", 1),
        ("shift", -1),
        ("threads", 0),
        ("rate", 0.0),
        ("rate", math.nan),
        ("consistency", -1.0),
        ("consistency", math.inf),
    ],
)
def test_settings_out_of_range_are_refused(name: str, value: Any) -> None:
    with pytest.raises(BitcertError, match=f"training setting {name} must be"):
        replace(_SETTINGS, **{name: value})


def test_a_negative_seed_is_refused(split: ImageSplit) -> None:
    with pytest.raises(BitcertError, match="seed must not be negative, got -1"):
        train_base(_small(), split, sigma=0.25, settings=_SETTINGS, seed=-1)


@pytest.mark.parametrize("sigma", [-0.1, math.nan, math.inf])
def test_a_sigma_out_of_range_is_refused(split: ImageSplit, sigma: float) -> None:
    with pytest.raises(BitcertError, match="sigma must be a number >= 0"):
        train_base(_small(), split, sigma=sigma, settings=_SETTINGS, seed=0)


def test_augmentation_moves_and_mirrors_whole_images() -> None:
    images = torch.rand(200, 2, 5, 7, generator=torch.Generator().manual_seed(0)) + 0.1
    augmented = augment(images, flip=True, shift=2, generator=torch.Generator().manual_seed(1))
    moves = []
    for image, moved in zip(images.numpy(), augmented.numpy(), strict=True):
        candidates = {}
        for mirrored in (False, True):
            source = image[:, :, ::-1] if mirrored else image
            for down in range(-2, 3):
                for right in range(-2, 3):
                    rolled = np.zeros_like(source)
                    rolled[:, max(down, 0) : 5 + min(down, 0), max(right, 0) : 7 + min(right, 0)] = source[
                        :, max(-down, 0) : 5 - max(down, 0), max(-right, 0) : 7 - max(right, 0)
                    ]
                    candidates[mirrored, down, right] = rolled
        matching = [move for move, candidate in candidates.items() if np.array_equal(candidate, moved)]
        assert len(matching) == 1
        moves += matching
    # each of 5 x 5 x 2 moves has chance 1/50; half mirrored within 5 standard deviations of 100 +- 7
    assert {move[1:] for move in moves} == {(down, right) for down in range(-2, 3) for right in range(-2, 3)}
    assert abs(sum(move[0] for move in moves) - 100) < 36


def test_no_augmentation_leaves_images_alone() -> None:
    images = torch.rand(3, 1, 4, 4)
    assert augment(images, flip=False, shift=0, generator=torch.Generator()) is images
