"""The loss of interval bounds against loops over images, and what training with it proves that plain training does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from suite.data import ImageSplit, load_dataset
from suite.errors import BitcertError
from suite.networks import build_network, network_sha256
from suite.problems import load_problem
from suite.quantize import TrainableNetwork
from suite.train.base import TrainSettings, train_base
from suite.train.finetune import FinetuneSettings, finetune
from suite.train.interval import IntervalNetwork, box, certified_share
from suite.train.interval_loss import IntervalLoss, IntervalPenalty, IntervalSettings
from suite.train.loss import TrainingBatch, cross_entropy
from suite.train.recipe import accuracy
from suite.workbench import Workbench, workbench_of

RADIUS = 1 / 16
STEPS, BITS = 200, 3


@pytest.fixture(scope="module")
def split() -> ImageSplit:
    return load_dataset("digits").splits["train"]


@pytest.fixture(scope="module")
def bench() -> Workbench:
    """A network that was trained with bounds."""
    return workbench_of(load_problem("digits-linf"), "network")


def trained(split: ImageSplit, seed: int = 0, **settings: Any) -> nn.Module:
    network = build_network("mlp-digits", 10, 1)
    train_base(network, split, sigma=0.0, settings=TrainSettings(batch=64, rate=0.05, **settings), seed=seed)
    return network


@pytest.mark.parametrize("progress", [0.0, 0.3, 0.95])
def test_the_penalty_is_that_of_loops_over_images(split: ImageSplit, progress: float) -> None:
    settings = IntervalSettings(0.05, weight=1.5, margin=2.0, width=0.3)
    network = trained(split.subset(range(300)), epochs=20)
    images, labels = split.images(0, 40), torch.from_numpy(split.labels[:40])
    labels = torch.where(torch.arange(40) < 8, (labels + 1) % 10, labels)
    found = float(IntervalPenalty(network, settings)(images, labels, progress).detach())
    ramp = min(1.0, progress / 0.9)
    with torch.no_grad():
        bounds = IntervalNetwork(network)(*box(images, ramp * 0.05), labels)
    hinges = [
        sum(max(0.0, 2.0 - float(bounds.margins[row, other])) for other in range(10) if other != label)
        for row, label in enumerate(labels.tolist())
        if int(network(images[[row]]).argmax()) == label
    ]
    assert 20 < len(hinges) <= 32, "some are predicted wrongly"
    expected = ramp * 1.5 * sum(hinges) / 40 + 0.3 * float(bounds.width)
    assert found == pytest.approx(expected, rel=1e-4)
    assert (abs(found) < 1e-6) == (progress == 0)


def test_images_that_are_all_predicted_wrongly_add_nothing(split: ImageSplit) -> None:
    network = trained(split.subset(range(200)), epochs=10)
    images = split.images(0, 10)
    wrong = (network(images).argmax(dim=1) + 1) % 10
    penalty = IntervalPenalty(network, IntervalSettings(0.05, width=0.0))(images, wrong, 0.95)
    network.zero_grad()
    penalty.backward()
    assert float(penalty.detach()) == 0
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in network.parameters())


def test_training_with_bounds_proves_what_plain_training_does_not(split: ImageSplit) -> None:
    search = load_dataset("digits").splits["search"]
    plain, proven = trained(split, epochs=40), trained(split, epochs=40, interval_radius=RADIUS)
    assert certified_share(plain, search, RADIUS) < 0.05
    assert certified_share(proven, search, RADIUS) > 0.5
    assert accuracy(proven, search) > accuracy(plain, search) - 0.05


def test_without_radius_training_is_what_it_was(split: ImageSplit) -> None:
    few = split.subset(range(128))
    hashes = {network_sha256(trained(few, epochs=2, interval_weight=weight)) for weight in (0.0, 1.0, 7.0)}
    assert len(hashes) == 1
    assert network_sha256(trained(few, epochs=2, interval_radius=0.01)) not in hashes
    weightless = trained(few, epochs=2, interval_radius=0.01, interval_weight=0.0)
    assert {network_sha256(weightless)} == hashes, "bounds draw nothing from the generators of noise and order"


class _StoppedError(Exception):
    """Stands for a killed process."""


def test_a_resumed_training_goes_on_where_radius_and_weight_were(split: ImageSplit, tmp_path: Path) -> None:
    def stop(*report: object) -> None:
        raise _StoppedError

    settings = TrainSettings(epochs=3, batch=32, rate=0.05, consistency=1.0, interval_radius=0.1)
    arguments: dict[str, Any] = {"sigma": 0.1, "settings": settings, "seed": 0}
    few, hashes = split.subset(range(96)), []
    for path in (None, tmp_path / "training.resume"):
        network = build_network("mlp-digits", 10, 1)
        if path is not None:
            with pytest.raises(_StoppedError):
                train_base(network, few, resume=path, progress=stop, **arguments)
            network = build_network("mlp-digits", 10, 1)
        train_base(network, few, resume=path, **arguments)
        hashes.append(network_sha256(network))
    assert hashes[0] == hashes[1]


def test_finetuning_with_bounds_proves_more_than_without_at_equal_steps(bench: Workbench) -> None:
    search, train = bench.dataset.splits["search"], bench.dataset.splits["train"]
    shares, hits = [], []
    for loss in (cross_entropy, IntervalLoss(IntervalSettings(1.5 * RADIUS), STEPS)):
        network = bench.trainable(bench.space.uniform(BITS))
        finetune(network, train, steps=STEPS, sigma=0.0, settings=FinetuneSettings(), seed=0, loss=loss)
        frozen = network.freeze()
        shares.append(certified_share(frozen, search, RADIUS))
        hits.append(accuracy(network, search))
        assert shares[-1] == certified_share(network, search, RADIUS), "the frozen network is the one that was trained"
    assert shares[1] > shares[0] + 0.05
    assert hits[1] > hits[0] - 0.05


def test_one_loss_may_finetune_several_networks(bench: Workbench) -> None:
    images, labels = bench.dataset.splits["train"].images(0, 8), torch.from_numpy(bench.dataset.splits["train"].labels)
    batch = TrainingBatch(5, 0, 0.0, torch.arange(8), images, images, labels[:8])
    loss = IntervalLoss(IntervalSettings(RADIUS), 6)
    networks: list[TrainableNetwork] = [bench.trainable(bench.space.uniform(bits)) for bits in (2, 4, 2)]
    values = [float(loss(network, batch).detach()) for network in networks]
    assert values[0] == values[2] != values[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"radius": 0.0}, r"radius within \(0, 1\].*got 0.0"),
        ({"radius": 1.5}, "got 1.5"),
        ({"radius": float("nan")}, "got nan"),
        ({"radius": 0.1, "weight": -1.0}, "weight >= 0"),
        ({"radius": 0.1, "margin": float("inf")}, "margin >= 0"),
        ({"radius": 0.1, "width": -0.1}, "width >= 0"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(BitcertError, match=message):
        IntervalSettings(**options)


@pytest.mark.parametrize("options", [{"interval_radius": -0.1}, {"interval_radius": 0.1, "interval_weight": -1.0}])
def test_base_training_refuses_them_before_it_begins(options: dict[str, float]) -> None:
    with pytest.raises(BitcertError, match="interval bounds need"):
        replace(TrainSettings(epochs=1), **options)  # type: ignore[arg-type]


def test_a_network_with_batch_norm_is_refused_by_name(split: ImageSplit) -> None:
    with pytest.raises(BitcertError, match=r"cannot pass bn1 \(BatchNorm2d in training mode\)"):
        train_base(
            build_network("resnet8", 10, 1),
            split.subset(range(64)),
            sigma=0.0,
            settings=TrainSettings(epochs=1, batch=32, interval_radius=0.1),
            seed=0,
        )
